"""How fast and how large a model is: time to first token, time per output token, parameters, bytes."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel, get_peft_model_state_dict

from objectives.decoding import Decoding
from objectives.generate import encode_text, most_positions
from objectives.inference import evaluating
from objectives.score import Frozen, ObjectiveError

TIMED_TOKENS = 128  # of the prompt, and of the answer, on which `measured` times a model
RUNS, WARMUPS = 10, 2
_TEXT = "Every morning the baker opens the shop, lights the oven and writes the day's list on a slate by the door. "


class Spread(Frozen):
    """Median, and the 95th percentile of the slow side, over the runs; linearly interpolated.

    Of times, 95 % of the runs took at most `p95`; of rates, 95 % of the runs were at least as fast as `p95`.
    """

    p50: float
    p95: float

    @classmethod
    def of(cls, times: Sequence[float]) -> Spread:
        """The spread of at least one time."""
        ordered = sorted(times)
        return cls(p50=_quantile(ordered, 0.50), p95=_quantile(ordered, 0.95))

    @classmethod
    def of_rates(cls, rates: Sequence[float]) -> Spread:
        """The spread of at least one rate, of which the low ones are the slow ones."""
        ordered = sorted(rates)
        return cls(p50=_quantile(ordered, 0.50), p95=_quantile(ordered, 0.05))


class Latency(Frozen):
    """Greedy decoding at batch size 1 with a fixed number of new tokens, no end token observed.

    `first_token_s`: from the prompt to its first new token; `per_token_s`: mean of each run over the tokens after it;
    `tokens_per_s`: new tokens over the whole run. `peak_memory_bytes`: on a CUDA device the most that was allocated
    during the runs, weights of everything loaded included; elsewhere the largest resident size of the process so far.
    """

    device: str
    prompt_tokens: int
    new_tokens: int
    runs: int
    first_token_s: Spread
    per_token_s: Spread
    tokens_per_s: Spread
    peak_memory_bytes: int


class Arm(NamedTuple):
    """One of the models that are measured in turns; it is measured inside of `active()`.

    Arm(tuned, tokenizer, tuned.disable_adapter)  # the base, below its adapter
    """

    model: Any
    tokenizer: Any
    active: Callable[[], AbstractContextManager[Any]] = nullcontext


class Size(Frozen):
    """Parameters by their logical shapes (4-bit weights are packed two to a byte) and bytes as they lie.

    `trainable_parameters` are the adapter's where there is one, whether or not it is frozen by now. `adapter_bytes` is
    the whole adapter folder; `loaded_bytes` is weights, buffers and quantization constants in memory.
    """

    total_parameters: int
    trainable_parameters: int
    adapter_bytes: int
    loaded_bytes: int


def measure_latency(
    model: Any,
    tokenizer: Any,
    prompt_tokens: int,
    new_tokens: int,
    runs: int,
    warmups: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Latency:
    """Time `runs` answers of `new_tokens` (at least 2) to one prompt of `prompt_tokens`, after `warmups` unmeasured.

    On CUDA the clock is read after a synchronize, and the device's peak memory statistics are reset.
    Raises ObjectiveError where the model has too few positions.
    """
    return interleaved([Arm(model, tokenizer)], prompt_tokens, new_tokens, runs, warmups, clock)[0]


def measured(model: Any, tokenizer: Any, adapter: Path | None = None) -> dict[str, Any]:
    """The `latency` and `size` of a model, and of the files of its adapter where it has one, as JSON."""
    length = min(TIMED_TOKENS, model.config.get_text_config().max_position_embeddings // 2)
    speed = measure_latency(model, tokenizer, prompt_tokens=length, new_tokens=length, runs=RUNS, warmups=WARMUPS)
    made = size(model, adapter)
    return {"latency": speed.model_dump(mode="json"), "size": made.model_dump(mode="json")}


def interleaved(
    arms: Sequence[Arm],
    prompt_tokens: int,
    new_tokens: int,
    runs: int,
    warmups: int,
    clock: Callable[[], float] = time.perf_counter,
    after_run: Callable[[], None] = lambda: None,
) -> list[Latency]:
    """Measure several models as `measure_latency` does one, by turns: run by run each of them once, so that a machine
    that slows down, or another process, meets them all alike. `after_run` is called after each run, warm-ups too."""
    assert min(prompt_tokens, runs) >= 1, (prompt_tokens, runs)
    assert new_tokens >= 2, new_tokens
    for arm in arms:
        room = longest_prompt(arm.model, new_tokens)
        if room is not None and prompt_tokens > room:
            raise ObjectiveError(
                f"a prompt of {prompt_tokens} tokens and {new_tokens} new ones exceed the model's "
                f"{room + new_tokens} positions; measure a shorter one"
            )
    prompts = [_prompt(arm.tokenizer, prompt_tokens) for arm in arms]
    timed: list[list[_Run]] = [[] for _ in arms]
    for turn in range(warmups + runs):
        for arm, prompt, kept in zip(arms, prompts, timed, strict=True):
            with evaluating(arm.model), arm.active():
                run = _time(arm.model, prompt, new_tokens, clock)
            if turn >= warmups:
                kept.append(run)
            after_run()
    return [
        _latency(device_name(arm.model.device), prompt_tokens, new_tokens, kept)
        for arm, kept in zip(arms, timed, strict=True)
    ]


class _Run(NamedTuple):
    """Seconds from the prompt to the first new token and to the last, and the peak memory until then."""

    first: float
    last: float
    peak_bytes: int


def _latency(device: str, prompt_tokens: int, new_tokens: int, runs: Sequence[_Run]) -> Latency:
    return Latency(
        device=device,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        runs=len(runs),
        first_token_s=Spread.of([run.first for run in runs]),
        per_token_s=Spread.of([(run.last - run.first) / (new_tokens - 1) for run in runs]),
        tokens_per_s=Spread.of_rates([new_tokens / run.last for run in runs]),
        peak_memory_bytes=max(run.peak_bytes for run in runs),
    )


def device_name(device: torch.device) -> str:
    """The card's name; on the CPU "cpu" and, where Linux says it, the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return str(device)
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    name = next(names, "")
    return f"{device} ({name})" if name else str(device)


def longest_prompt(model: Any, new_tokens: int) -> int | None:
    """The most prompt tokens that leave room for `new_tokens`; None where the configuration names no limit."""
    limit = most_positions(model)
    return None if limit is None else limit - new_tokens


def size(model: Any, adapter: Path | None = None) -> Size:
    """Count `model` as it is loaded, and the files of its adapter's folder. Changes nothing."""
    parameters = list(model.parameters())
    trainable = [p for p in parameters if p.requires_grad]
    if isinstance(model, PeftModel):
        trainable = list(get_peft_model_state_dict(model, save_embedding_layers=False).values())
    return Size(
        total_parameters=sum(map(logical_numel, parameters)),
        trainable_parameters=sum(map(logical_numel, trainable)),
        adapter_bytes=_folder_bytes(adapter) if adapter is not None else 0,
        loaded_bytes=sum({tensor.data_ptr(): tensor.nbytes for tensor in _tensors(model)}.values()),
    )


def logical_numel(parameter: torch.Tensor) -> int:
    """How many weights a parameter stands for, however it is packed."""
    state = getattr(parameter, "quant_state", None)
    return math.prod(state.shape) if state is not None else parameter.numel()


def _tensors(model: Any) -> Iterator[torch.Tensor]:
    """Every tensor of the loaded model: parameters, buffers, and the constants of 4-bit weights, nested ones too."""
    yield from model.buffers()
    for parameter in model.parameters():
        yield parameter
        state = getattr(parameter, "quant_state", None)
        while state is not None:
            yield from (t for t in (state.absmax, state.code, state.offset) if isinstance(t, torch.Tensor))
            state = state.state2


def _folder_bytes(folder: Path) -> int:
    if not folder.is_dir():
        raise ObjectiveError(f"{folder} is no folder; give that of a saved adapter")
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _prompt(tokenizer: Any, length: int) -> list[int]:
    tokens = encode_text(tokenizer, _TEXT)
    if not tokens:
        raise ObjectiveError("the tokenizer turns English text into no tokens; check its files")
    return (tokens * math.ceil(length / len(tokens)))[:length]


def _time(model: Any, prompt: list[int], new_tokens: int, clock: Callable[[], float]) -> _Run:
    cuda = model.device.type == "cuda"

    def now() -> float:
        if cuda:
            torch.cuda.synchronize(model.device)
        return clock()

    if cuda:
        torch.cuda.reset_peak_memory_stats(model.device)
    started = now()
    decoding = Decoding(model, [prompt])
    decoding.step()
    first = now()
    for _ in range(new_tokens - 1):
        decoding.step()
    return _Run(first - started, now() - started, _peak_memory(model.device))


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def _quantile(ordered: Sequence[float], fraction: float) -> float:
    place = fraction * (len(ordered) - 1)
    below, above = ordered[math.floor(place)], ordered[math.ceil(place)]
    return below + (above - below) * (place - math.floor(place))
