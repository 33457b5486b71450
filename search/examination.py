"""Asks one model the prompts of its job: a trial stage by stage, until all are asked or it is behind the incumbent; a
finalist those of its turn.

A part of the worker, in whose process alone it is imported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from objectives import decided, ifeval, race, subset
from objectives.answers import AnswerLog
from objectives.score import Answer, ObjectiveError, Prompt, Score
from train.rundir import Json

if TYPE_CHECKING:
    from objectives.generate import Generator

Verdicts = dict[int, race.Asked]  # by key


@dataclass(frozen=True)
class Examined:
    """The answers to the prompts that were asked, in the order in which they were, and what they are worth.

    `behind` is the number of the incumbent that ended it; None where the whole `reference` set was asked. `value`
    estimates prompt-level strict accuracy on that set.
    """

    reference: tuple[Prompt, ...]
    prompts: tuple[Prompt, ...]
    answers: tuple[Answer, ...]
    score: Score
    value: float
    behind: int | None

    def samples(self) -> list[dict[str, Any]]:
        """The lines of samples.jsonl."""
        return ifeval.samples(self.prompts, self.answers, self.score)


def examine(asked: Json, generator: Generator, log: Callable[[int], Path], identity: Mapping[str, Any]) -> Examined:
    """Ask what `asked`, the "objective" of a job.json, says (search.workbench writes it).

    The answers of stage n are kept in log(n) as they are made, and taken from there after a kill; `identity` says what
    decides them besides the prompts and the generator. Raises ObjectiveError for prompts that are not those of the job.
    """
    half = _search_half(asked)
    reference = subset.take(half, asked["subset"])
    if "fresh" in asked:
        begin, end = asked["fresh"]
        return _turn(_Asking(asked, generator, log, identity, subset.rest(half, asked["subset"])[begin:end]))
    earlier = {int(number): _verdicts(found) for number, found in asked["earlier"].items()}
    # Out of the order it stays: first would come the prompts on which it happened to do well.
    incumbent = None if asked["incumbent"] is None else earlier.pop(asked["incumbent"])
    order = race.order(reference, list(earlier.values()))
    ask = _Asking(asked, generator, log, identity, order)
    behind = False
    for stage in [*asked["stages"], len(order)] if incumbent else [len(order)]:
        ask.up_to(stage)
        if incumbent and stage < len(order):
            rules = race.Race(stages=tuple(asked["stages"]), error_rate=asked["error_rate"])
            behind = rules.behind(_differences(ask.score, incumbent))
        if behind:
            break
    return Examined(
        reference=reference,
        prompts=order[: len(ask.answers)],
        answers=tuple(ask.answers),
        score=ask.score,
        value=_value(ask.score, incumbent, reference),
        behind=asked["incumbent"] if behind else None,
    )


def _turn(ask: _Asking) -> Examined:
    """A finalist's turn: all of its prompts, compared with nobody."""
    ask.up_to(len(ask.order))
    return Examined(ask.order, ask.order, tuple(ask.answers), ask.score, ask.score.value, None)


class _Asking:
    """The prompts in the order in which they are asked, and the answers so far."""

    def __init__(
        self,
        asked: Json,
        generator: Generator,
        log: Callable[[int], Path],
        identity: Mapping[str, Any],
        order: tuple[Prompt, ...],
    ) -> None:
        self._generator, self._log, self.order = generator, log, order
        self._decided: bool = asked["decided_rows"]
        settings = ("decided_rows", "max_new_tokens", "batch_size")
        self._identity = {**identity, **{name: asked[name] for name in settings}}
        self.answers: list[Answer] = []
        self._seconds, self._halved = 0.0, False

    def up_to(self, count: int) -> None:
        """Have the first `count` prompts answered, and judge all answers there are."""
        stage = len(self.answers)
        prompts = self.order[stage:count]
        log = AnswerLog(self._log(stage), {**self._identity, "prompts": ifeval.prompts_sha256(prompts)})
        stops = decided.stops(prompts) if self._decided else None
        self.answers += self._generator([prompt.prompt for prompt in prompts], stop=stops, log=log)
        self._seconds += log.seconds
        self._halved = self._halved or self._generator.halved or log.halved
        score = ifeval.IFEval(self.order[:count]).check(self.answers, seconds=self._seconds)
        self.score = score.model_copy(update={"halved": self._halved})


def _search_half(asked: Json) -> tuple[Prompt, ...]:
    path = Path(asked["prompts"])
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "none: there is no such file"
    if found != asked["prompts_sha256"]:
        raise ObjectiveError(
            f"{path} is not what the service wrote there (its sha256 is {found}, not {asked['prompts_sha256']}); "
            "`nightshift start` writes it anew"
        )
    return ifeval.load_prompts(path)


def _verdicts(found: Mapping[str, Sequence[int]]) -> Verdicts:
    return {int(key): race.Asked(followed=bool(followed), tokens=tokens) for key, (followed, tokens) in found.items()}


def _differences(score: Score, incumbent: Verdicts) -> list[int]:
    """1 where only this model followed the prompt, -1 where only the incumbent did, 0 where both or neither."""
    return [int(verdict.followed) - int(incumbent[verdict.key].followed) for verdict in score.verdicts]


def _value(score: Score, incumbent: Verdicts | None, reference: Sequence[Prompt]) -> float:
    followed = {verdict.key: verdict.followed for verdict in score.verdicts}
    theirs = None if incumbent is None else {key: one.followed for key, one in incumbent.items()}
    return race.estimate(followed, theirs, [prompt.key for prompt in reference])
