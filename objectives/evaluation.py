"""One model on the halves of the prompts and on all of them, with every answer kept on disk as soon as it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from objectives.answers import AnswerLog
from objectives.ifeval import IFEval, load_prompts, prompts_sha256, samples
from objectives.score import Answer, Prompt, Score
from objectives.subset import halves

HALVES = {"search": "the half that the search saw", "sealed": "the half that it never saw"}
WHOLE = "all"


@dataclass(frozen=True)
class Answered:
    """How far an evaluation is: `done` of all its `prompts`, `kept` of them by an earlier call; `tokens` and `seconds`
    are those of the answers that this call made."""

    part: str
    prompts: int
    done: int = 0
    kept: int = 0
    tokens: int = 0
    seconds: float = 0.0


Progress = Callable[[Answered], None]


class LoggedGenerate(Protocol):
    """Prompts in, answers out; what `log` holds is taken from it, what is made goes into it piece by piece."""

    def check(self, prompts: Sequence[str]) -> None:
        """Raise ObjectiveError where one of them cannot be answered."""

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

    `parts` are halves, or "all" alone: that is for files that cannot be halved. The answers to each go to
    KEEP-PART.jsonl as `generate` puts them there, and a later call takes them from there: an interruption costs what
    was not put yet, which are a few batches (SEGMENT in objectives.generate). They are those of one `identity`: what
    decides the answers beside the prompts.
    Raises ObjectiveError for prompts that cannot be used.
    """
    assert parts, "nothing is asked"
    assert set(parts) <= set(HALVES) or tuple(parts) == (WHOLE,), parts
    read = load_prompts(prompts_path)
    split = {WHOLE: read} if tuple(parts) == (WHOLE,) else dict(zip(HALVES, halves(read), strict=True))
    generate.check([prompt.prompt for part in parts for prompt in split[part]])  # before the first is answered
    count = _Count(sum(len(split[part]) for part in parts), progress)
    everything: list[Prompt] = []
    answers: list[Answer] = []
    scores: dict[str, Score] = {}
    seconds, halved = 0.0, False
    for half in parts:
        log = _Log(keep.with_name(f"{keep.name}-{half}.jsonl"), half, split[half], identity or {}, count)
        kept = f", {log.kept} of them answered before" if log.kept else ""
        show(f"{len(split[half])} prompts" + (f" of {HALVES[half]}" if half in HALVES else "") + kept)
        made = generate([prompt.prompt for prompt in split[half]], log=log)
        scores[half] = _scored(split[half], made, log.seconds, log.halved)
        seconds, halved = seconds + log.seconds, halved or log.halved
        everything += split[half]
        answers += made
    if len(parts) == len(HALVES):
        scores[WHOLE] = _scored(everything, answers, seconds, halved)
    return scores, samples(everything, answers, scores.get(WHOLE, scores[parts[0]]))


def _scored(prompts: Sequence[Prompt], answers: Sequence[Answer], seconds: float, halved: bool) -> Score:
    return IFEval(prompts).check(answers, seconds=seconds).model_copy(update={"halved": halved})


class _Count:
    """Where an evaluation is, over all its parts."""

    def __init__(self, prompts: int, progress: Progress) -> None:
        self._at = Answered(part="", prompts=prompts)
        self._progress = progress

    def add(self, part: str, answers: Sequence[Answer], seconds: float | None) -> None:
        """Tell that these were answered in `seconds`; None: taken from the log."""
        at = replace(self._at, part=part, done=self._at.done + len(answers))
        if seconds is None:
            at = replace(at, kept=at.kept + len(answers))
        else:
            tokens = at.tokens + sum(answer.tokens for answer in answers)
            at = replace(at, tokens=tokens, seconds=at.seconds + seconds)
        self._at = at
        self._progress(at)


class _Log(AnswerLog):
    """The answers to one part of the prompts; tells of them as they come."""

    def __init__(
        self, path: Path, part: str, prompts: Sequence[Prompt], identity: Mapping[str, Any], count: _Count
    ) -> None:
        super().__init__(path, {**identity, "prompts_sha256": prompts_sha256(prompts)})
        self._part, self._count = part, count

    def get(self, batch: list[int]) -> list[Answer] | None:
        answers = super().get(batch)
        if answers is not None:
            self._count.add(self._part, answers, None)
        return answers

    def put(self, batch: list[int], answers: Sequence[Answer], seconds: float = 0.0) -> None:
        super().put(batch, answers, seconds)
        self._count.add(self._part, answers, seconds)
