"""How fast and how large a model is: time to first token, time per output token, parameters, bytes."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict

from objectives.generate import Decoding, check_positions, encode_text, evaluating
from objectives.score import Frozen, ObjectiveError

_TEXT = "Every morning the baker opens the shop, lights the oven and writes the day's list on a slate by the door. "


class Spread(Frozen):
    """Median and 95th percentile over the runs, linearly interpolated."""

    p50: float
    p95: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        ordered = sorted(values)
        return cls(p50=_quantile(ordered, 0.50), p95=_quantile(ordered, 0.95))


class Latency(Frozen):
    """Greedy decoding at batch size 1 with a fixed number of new tokens, no end token observed.

    `first_token_s`: from the prompt to its first new token; `per_token_s`: mean of each run over the tokens after it;
    `tokens_per_s`: new tokens over the whole run (its p95 is that of the fast runs). `peak_memory_bytes`: on a CUDA
    device the most that was allocated during the runs, weights included; elsewhere the largest resident size of the
    process so far.
    """

    device: str
    prompt_tokens: int
    new_tokens: int
    runs: int
    first_token_s: Spread
    per_token_s: Spread
    tokens_per_s: Spread
    peak_memory_bytes: int


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
    assert min(prompt_tokens, runs) >= 1, (prompt_tokens, runs)
    assert new_tokens >= 2, new_tokens
    check_positions(model, prompt_tokens, new_tokens)
    prompt = _prompt(tokenizer, prompt_tokens)
    cuda = model.device.type == "cuda"
    with evaluating(model):
        for _ in range(warmups):
            _time(model, prompt, new_tokens, clock)
        if cuda:
            torch.cuda.reset_peak_memory_stats(model.device)
        times = [_time(model, prompt, new_tokens, clock) for _ in range(runs)]
    return Latency(
        device=torch.cuda.get_device_name(model.device) if cuda else str(model.device),
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        runs=runs,
        first_token_s=Spread.of([first for first, _ in times]),
        per_token_s=Spread.of([(last - first) / (new_tokens - 1) for first, last in times]),
        tokens_per_s=Spread.of([new_tokens / last for _, last in times]),
        peak_memory_bytes=_peak_memory(model.device),
    )


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


def _time(model: Any, prompt: list[int], new_tokens: int, clock: Callable[[], float]) -> tuple[float, float]:
    """Seconds from the prompt to the first new token, and to the last."""

    def now() -> float:
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        return clock()

    started = now()
    decoding = Decoding(model, [prompt])
    decoding.step()
    first = now()
    for _ in range(new_tokens - 1):
        decoding.step()
    return first - started, now() - started


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def _quantile(ordered: Sequence[float], fraction: float) -> float:
    place = fraction * (len(ordered) - 1)
    below, above = ordered[math.floor(place)], ordered[math.ceil(place)]
    return below + (above - below) * (place - math.floor(place))
