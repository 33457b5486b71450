"""One model on the halves of the prompts and on all of them, with every answer kept on disk as soon as it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from objectives.answers import AnswerLog
from objectives.ifeval import IFEval, load_prompts, prompts_sha256, samples
from objectives.score import Answer, Prompt, Score
from objectives.subset import halves

HALVES = {"search": "the half that the search saw", "sealed": "the half that it never saw"}

Progress = Callable[[str, int, int, int], None]  # half, prompts answered, of how many, tokens so far


class LoggedGenerate(Protocol):
    """Prompts in, answers out; what `log` holds is taken from it, what is made goes into it batch by batch."""

    def __call__(self, prompts: list[str], *, log: AnswerLog | None = None) -> list[Answer]: ...


def evaluate(
    prompts_path: Path,
    generate: LoggedGenerate,
    keep: Path,
    show: Callable[[str], None] = lambda _: None,
    *,
    identity: Mapping[str, Any] | None = None,
    parts: Sequence[str] = tuple(HALVES),
    progress: Progress = lambda *_: None,
) -> tuple[dict[str, Score], list[dict[str, Any]]]:
    """The Scores of `parts`, and of "all" where both halves are asked; and the lines of samples.jsonl for all of them.

    The answers to each half go to KEEP-HALF.jsonl batch by batch, and a later call takes them from there, so that an
    interruption costs one batch. They are those of one `identity`: what decides the answers beside the prompts.
    Raises ObjectiveError for prompts that cannot be used.
    """
    assert parts, "nothing is asked"
    assert set(parts) <= set(HALVES), parts
    split = dict(zip(HALVES, halves(load_prompts(prompts_path)), strict=True))
    everything: list[Prompt] = []
    answers: list[Answer] = []
    scores: dict[str, Score] = {}
    seconds, halved = 0.0, False
    for half in parts:
        show(f"{len(split[half])} prompts of {HALVES[half]}")
        log = _Log(keep.with_name(f"{keep.name}-{half}.jsonl"), half, split[half], identity or {}, progress)
        made = generate([prompt.prompt for prompt in split[half]], log=log)
        scores[half] = _scored(split[half], made, log.seconds, log.halved)
        seconds, halved = seconds + log.seconds, halved or log.halved
        everything += split[half]
        answers += made
    if len(parts) == len(HALVES):
        scores["all"] = _scored(everything, answers, seconds, halved)
    return scores, samples(everything, answers, scores["all" if len(parts) == len(HALVES) else parts[0]])


def _scored(prompts: Sequence[Prompt], answers: Sequence[Answer], seconds: float, halved: bool) -> Score:
    return IFEval(prompts).check(answers, seconds=seconds).model_copy(update={"halved": halved})


class _Log(AnswerLog):
    """The answers to one half, which tells how many there are as they come."""

    def __init__(
        self, path: Path, half: str, prompts: Sequence[Prompt], identity: Mapping[str, Any], progress: Progress
    ) -> None:
        super().__init__(path, {**identity, "prompts_sha256": prompts_sha256(prompts)})
        self._half, self._count, self._progress = half, len(prompts), progress
        self._done = self._tokens = 0

    def get(self, batch: list[int]) -> list[Answer] | None:
        answers = super().get(batch)
        if answers is not None:
            self._tell(answers)
        return answers

    def put(self, batch: list[int], answers: Sequence[Answer], seconds: float = 0.0) -> None:
        super().put(batch, answers, seconds)
        self._tell(answers)

    def _tell(self, answers: Sequence[Answer]) -> None:
        self._done += len(answers)
        self._tokens += sum(answer.tokens for answer in answers)
        self._progress(self._half, self._done, self._count, self._tokens)
