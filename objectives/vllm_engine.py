"""Answers made by vLLM in a process of its own (objectives.vllm_child), after a try that compares it with ours.

vLLM needs another torch than Nightshift, so it lives in an environment of its own, of which a user names the python.
Prompts go there as token ids and answers come back as token ids: what a prompt looks like and what ends an answer is
decided here, for either engine.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from objectives.answers import AnswerLog
from objectives.decoding import Tokens
from objectives.generate import Generator, Stop
from objectives.inference import evaluating
from objectives.plain import TRIED, first_difference, plainly
from objectives.score import Answer, ObjectiveError

CHILD = Path(__file__).with_name("vllm_child.py")
LOG = "vllm.txt"
TRY = 3  # prompts, the shortest, are asked of both at the start
SEED = 0  # greedy answers draw nothing; named all the same
END_PATIENCE_S = 20.0


@dataclass(frozen=True)
class Engine:
    """What vLLM loads, and where: `python` has vllm installed, `folder` gets the job and what vLLM prints."""

    python: str
    folder: Path
    model: Path
    adapter: Path | None
    nf4: bool
    batch_size: int


class VllmGenerator:
    """Answers prompts as objectives.generate.Generator does, `batch_size` of them a segment of the log.

    `chat_template` and `batch_size` are for the record. vLLM ends nothing early, so there is no `stop`.
    """

    def __init__(self, child: _Child, frame: Generator, batch_size: int) -> None:
        self.chat_template = frame.chat_template
        self.batch_size = batch_size
        self.fallback: str | None = None
        self._child = child
        self._frame = frame

    def check(self, prompts: Sequence[str]) -> None:
        """Nothing: all prompts were looked at before vLLM was started."""

    def __call__(
        self, prompts: Sequence[str], stop: Sequence[Stop] | None = None, log: AnswerLog | None = None
    ) -> list[Answer]:
        """One answer for each prompt, in the same order; what `log` holds is taken from it."""
        assert stop is None, "vLLM cannot end decided rows"
        rows = self._frame.encode(prompts)
        longest_first = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        answers: dict[int, Answer] = {}
        for start in range(0, len(rows), self.batch_size):
            segment = longest_first[start : start + self.batch_size]
            made = log.get(segment) if log is not None else None
            if made is None:
                began = time.perf_counter()
                made = self._frame.answers(self._child.answers([rows[i] for i in segment], self._frame.max_new_tokens))
                if log is not None:
                    log.put(segment, made, time.perf_counter() - began)
            answers |= zip(segment, made, strict=True)
        return [answers[i] for i in range(len(rows))]


@contextmanager
def answering(
    engine: Engine, load: Callable[[], Generator], prompts: Sequence[str]
) -> Iterator[tuple[VllmGenerator | Generator, str | None]]:
    """A generator for `prompts`, and why it is not vLLM's: where that differs from plain `model.generate` on a few
    prompts, token for token but for ties, it is the one that `load` gives.

    On a card the model is loaded, asked and let go before vLLM starts, so that both have the whole memory.
    Raises ObjectiveError where vLLM cannot be started, or ends.
    """
    own = load()
    rows = own.encode(prompts)
    longest = max(map(len, rows))
    own.check(prompts)
    expected = _Expected(own, sorted(rows, key=len)[:TRY])
    on_card = own.model.device.type == "cuda"
    job = {
        "model": str(engine.model),
        "adapter": str(engine.adapter) if engine.adapter else None,
        "rank": _rank(engine.adapter) if engine.adapter else 0,
        "dtype": str(own.model.dtype).removeprefix("torch."),
        "nf4": engine.nf4,
        "end_tokens": sorted(own.end_tokens),
        "max_model_len": longest + own.max_new_tokens,
        "batch_size": engine.batch_size,
        "seed": SEED,
    }
    if on_card:
        own.release()
    with _started(engine, job) as child:
        why = expected.difference(child.answers(expected.rows, expected.new_tokens))
        if why is None:
            yield VllmGenerator(child, own, engine.batch_size), None
            return
    yield load() if on_card else own, why


class _Expected:
    """What plain `model.generate` answers to a few prompts."""

    def __init__(self, own: Generator, rows: list[Tokens]) -> None:
        self.rows = rows
        self.new_tokens = min(TRIED, own.max_new_tokens)
        self._eps = torch.finfo(own.model.dtype).eps
        with evaluating(own.model):
            self._plain, logits = plainly(own.model, rows, own.end_tokens, self.new_tokens)
        self._logits = [step.cpu() for step in logits]

    def difference(self, made: Sequence[Tokens]) -> str | None:
        return first_difference(made, self._plain, self._logits, self.rows, self._eps)


def _rank(adapter: Path) -> int:
    """The largest rank in an adapter."""
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    return int(max([config["r"], *(config.get("rank_pattern") or {}).values()]))


class _Child:
    """The process that holds vLLM; it answers one request at a time."""

    def __init__(self, process: subprocess.Popen[str], log: Path, ends: Collection[int]) -> None:
        self._process = process
        self._log = log
        self._ends = ends
        self._read("ready")

    def answers(self, rows: Sequence[Tokens], max_new_tokens: int) -> list[Tokens]:
        """The continuations of these rows, in their order."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # told when nothing is answered
            self._process.stdin.write(json.dumps({"rows": rows, "max_new_tokens": max_new_tokens}) + "\n")
            self._process.stdin.flush()
        made: list[Tokens] = self._read("answers")
        whole = [row for row in made if len(row) == max_new_tokens or (row and row[-1] in self._ends)]
        if len(whole) != len(rows):
            raise ObjectiveError(f"vLLM gave {len(whole)} whole answers to {len(rows)} prompts; try without it")
        return made

    def _read(self, name: str) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        try:
            return json.loads(line)[name]
        except (ValueError, KeyError, TypeError):
            raise ObjectiveError(self._ended()) from None

    def _ended(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_PATIENCE_S)
        code = self._process.returncode
        said = [line.strip() for line in self._log.read_text(encoding="utf-8", errors="replace").splitlines()]
        last = next((line for line in reversed(said) if line), "nothing")
        return (
            f"vLLM ended before it was done ({'no answer' if code is None else f'exit code {code}'}; the last it said: "
            f"{last}); all of it is in {self._log}. Mend its environment, or leave --engine vllm out"
        )


@contextmanager
def _started(engine: Engine, job: Mapping[str, Any]) -> Iterator[_Child]:
    path, log = engine.folder / "vllm.json", engine.folder / LOG
    path.write_text(json.dumps(job), encoding="utf-8")
    pipe = subprocess.PIPE
    with open(log, "w", encoding="utf-8") as said:
        try:
            process = subprocess.Popen(
                [engine.python, str(CHILD), str(path)], stdin=pipe, stdout=pipe, stderr=said, text=True
            )
        except OSError as error:
            raise ObjectiveError(f"{engine.python} cannot be started ({error.strerror}); mend --vllm-python") from None
    with process:
        try:
            yield _Child(process, log, job["end_tokens"])
            assert process.stdin is not None
            process.stdin.close()
            process.wait(END_PATIENCE_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if process.poll() is None:
                process.kill()
            path.unlink(missing_ok=True)
