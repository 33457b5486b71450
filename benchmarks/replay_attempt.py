"""One attempt of a replayed worker: what search/worker.py and train/loop.py do with a RunDir, without a model.

Everything is a generator of pauses, in seconds: what stands between two of them happens at one instant.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from objectives import race, subset
from objectives.score import Prompt, Score, Verdict
from search.clock import Clock
from search.parameters import WEIGHT, Parameter, Value
from train.recipe import Recipe
from train.rundir import Json, RunDir, read_json, write_atomic, write_json

POLL_S = 0.02  # between two looks of the worker's at a file that it waits for
LOAD_S, DATA_S, SAVE_S, ADAPTER_S = 5.0, 0.4, 0.1, 0.2
STRIDES = 20  # of a run, about
POSITION = "position.json"  # of a checkpoint

Pauses = Generator[float, None, None]


class Shown(Protocol):
    """What one training run shows (see benchmarks/landscape.py's Run)."""

    @property
    def failed_at(self) -> float | None: ...
    @property
    def train_s(self) -> float: ...
    @property
    def probe_s(self) -> float: ...
    @property
    def prompt_s(self) -> float: ...

    def bits(self, fraction: float) -> float:
        """Bits per byte of the probe."""

    def followed(self, fraction: float) -> Sequence[bool]:
        """Whether each prompt is followed, in the order of World.keys."""


@dataclass(frozen=True)
class World:
    """What is replayed: the run of any recipe of the space, the base model's, and the keys of their prompts."""

    run: Callable[[Mapping[str, Value]], Shown]
    base: Shown
    keys: Sequence[int]
    space: Mapping[str, Parameter]


@dataclass
class Position:
    """How far a run has come; what a checkpoint holds."""

    step: int = 0
    seconds: float = 0.0
    rungs: dict[str, float] = field(default_factory=dict)
    events_bytes: int = 0  # of events.jsonl, that a power cut leaves


class Stopped(Exception):
    """The service asked for a stop while prompts were being answered."""


@dataclass
class Timer:
    """Lets seconds go by for a cause, and adds them up."""

    seconds: dict[str, float] = field(default_factory=dict)

    def __call__(self, cause: str, seconds: float) -> Pauses:
        self.seconds[cause] = self.seconds.get(cause, 0.0) + seconds
        yield seconds


class Attempt:
    """One attempt at one run. `loaded`: the base model is in memory already."""

    def __init__(self, world: World, clock: Clock, run: RunDir, attempt: int) -> None:
        self.world, self.clock, self.run, self.attempt = world, clock, run, attempt
        self.timed = Timer()
        self.recipe = run.recipe()
        job = read_json(run.job)
        assert job is not None
        assert job["attempt"] == attempt
        self.job = job
        self.position = newest(run) or Position()
        self.began = self.saved_at = clock.monotonic()
        self.earlier_s = self.position.seconds

    def whole(self, loaded: bool) -> Generator[float, None, Json]:
        """What a worker does with an assignment; returns its result."""
        if not loaded:
            self.run.append_event({"event": "phase", "phase": "load"})
            yield from self.timed("load", LOAD_S)
        work = {"base": self._base, "trial": self._trial, "fresh": self._fresh}[self.job["kind"]]()
        try:
            result = yield from work
        except Stopped:
            result = {"outcome": "stopped", "reason": "", "score": None}
        return {"attempt": self.attempt, **result, "seconds": self.timed.seconds}

    def _base(self) -> Generator[float, None, Json]:
        shown = self.world.base
        self.run.append_event({"event": "phase", "phase": "probe"})
        yield from self.timed("probe", shown.probe_s)
        scored = yield from self._score(shown)
        return {"outcome": "completed", "reason": "", **scored, "bits_per_byte": shown.bits(0.0)}

    def _fresh(self) -> Generator[float, None, Json]:
        """A finalist's turn, as search/examination.py has it."""
        shown = self.world.run(params(self.recipe, self.world.space))
        yield from self.timed("load", ADAPTER_S)
        self.run.append_event({"event": "phase", "phase": "score"})
        asked = self.job["objective"]
        begin, end = asked["fresh"]
        prompts = _fresh(asked["prompts"], asked["prompts_sha256"], asked["subset"])[begin:end]
        yield from self._answers(0, len(prompts), shown.prompt_s, "race")
        told = self._told(shown, prompts)
        return {"outcome": "completed", "reason": "", "score": _scored(told, len(told) * shown.prompt_s)}

    def _told(self, shown: Shown, prompts: Sequence[Prompt]) -> list[Verdict]:
        followed = dict(zip(self.world.keys, map(bool, shown.followed(1.0)), strict=True))
        return [_verdict(prompt, followed[prompt.key]) for prompt in prompts]

    def _trial(self) -> Generator[float, None, Json]:
        shown = self.world.run(params(self.recipe, self.world.space))
        self.run.append_event({"event": "data", "fingerprint": "replayed", "sources": {}})
        yield from self.timed("data", DATA_S)
        if self.position.step:
            self.run.append_event({"event": "resumed", "step": self.position.step})
        outcome = yield from self._train(shown)
        if outcome == "failed":
            reason = f"TrainingFailed: loss nan with gradient norm nan at step {self.position.step}"
            return {"outcome": "failed", "reason": reason, "score": None, "broken": False}
        self.run.append_event({"event": outcome, "step": self.position.step})
        scored: Json = {"score": None}
        if outcome == "completed":
            yield from self.timed("save", SAVE_S)
            self.run.adapter.mkdir(exist_ok=True)
            scored = yield from self._score(shown)
        return {"outcome": outcome, "reason": "", **scored, **self._measured()}

    def _train(self, shown: Shown) -> Generator[float, None, str]:
        """Steps, saves and rungs until the run is completed, pruned, stopped or failed."""
        recipe, steps = self.recipe, self.recipe.steps
        due = {recipe.sft_steps, *map(recipe.step_at, self.job["rungs"])}
        going = yield from self._rungs(shown)
        while going and self.position.step < steps:
            step = self._stride(due)
            yield from self.timed("train", shown.train_s * (step - self.position.step) / steps)
            self.position.step = step
            if shown.failed_at is not None and step >= shown.failed_at * steps:
                return "failed"
            self.run.append_event(self._facts(step))
            timed = self.clock.monotonic() - self.saved_at >= self.job["checkpoint_every_s"]
            if saved := timed or step in due:
                yield from self._save()
            going = yield from self._rungs(shown)
            if going and step < steps and self._asked_to_stop():
                if not saved:
                    yield from self._save()
                return "stopped"
        return "completed" if going else "pruned"

    def _stride(self, due: Set[int]) -> int:
        """The step that is told of next: not every one is, to save time."""
        step, steps = self.position.step, self.recipe.steps
        return min([step + max(1, steps // STRIDES), steps, *(at for at in due if at > step)])

    def _rungs(self, shown: Shown) -> Generator[float, None, bool]:
        """Report the rungs at this step that were not yet; returns whether the trial may go on."""
        for fraction in self.job["rungs"]:
            if self.recipe.step_at(fraction) != self.position.step or str(fraction) in self.position.rungs:
                continue
            yield from self.timed("probe", shown.probe_s)
            bits = shown.bits(fraction)
            self.position.rungs[str(fraction)] = bits
            facts = {"fraction": fraction, "step": self.position.step, "bits_per_byte": bits}
            self.run.append_event({"event": "rung", **facts, "seconds": self._elapsed_s()})
            if not (yield from self._verdict(fraction)):
                return False
        return True

    def _verdict(self, fraction: float) -> Generator[float, None, bool]:
        while True:
            verdict = read_json(self.run.verdict)
            if verdict and (verdict["attempt"], verdict["fraction"]) == (self.attempt, fraction):
                return bool(verdict["go_on"])
            yield POLL_S

    def _score(self, shown: Shown) -> Generator[float, None, Json]:
        """Ask the prompts in stages, as search/examination.py does."""
        self.run.append_event({"event": "phase", "phase": "score"})
        asked = self.job["objective"]
        reference = _reference(asked["prompts"], asked["prompts_sha256"], asked["subset"])
        earlier = {int(number): _asked(found) for number, found in asked["earlier"].items()}
        incumbent = None if asked["incumbent"] is None else earlier.pop(asked["incumbent"])
        order = race.order(reference, list(earlier.values()))
        rules = race.Race(stages=tuple(asked["stages"]), error_rate=asked["error_rate"])
        followed = dict(zip(self.world.keys, map(bool, shown.followed(1.0)), strict=True))
        stages = [*asked["stages"], len(order)] if incumbent else [len(order)]
        count, behind = 0, False
        for stage in stages:
            yield from self._answers(count, stage - count, shown.prompt_s)
            count = stage
            if incumbent and stage < len(order):
                behind = rules.behind([followed[p.key] - incumbent[p.key].followed for p in order[:stage]])
            if behind:
                break
        told = {prompt.key: followed[prompt.key] for prompt in order[:count]}
        theirs = {key: one.followed for key, one in incumbent.items()} if incumbent else None
        write_atomic(self.run.samples, "".join(_sample(prompt, told[prompt.key]) for prompt in order[:count]))
        return {
            "reason": f"behind trial {asked['incumbent']} after {count} of {len(order)} prompts" if behind else "",
            "score": _scored([_verdict(prompt, told[prompt.key]) for prompt in order[:count]], count * shown.prompt_s),
            "value": race.estimate(told, theirs, [prompt.key for prompt in reference]),
            "race": {"asked": count, "of": len(order), "behind": asked["incumbent"] if behind else None},
        }

    def _answers(self, stage: int, count: int, prompt_s: float, cause: str = "score") -> Pauses:
        """Answer the prompts of one stage, batch by batch, but for those whose answers were kept."""
        log, batch = self.run.answers(stage), self.job["objective"]["batch_size"]
        kept = len(log.read_text(encoding="utf-8").split()) if log.exists() else 0
        for first in range(kept, count, batch):
            if self._asked_to_stop():
                raise Stopped
            size = min(batch, count - first)
            yield from self.timed(cause, size * prompt_s)
            with open(log, "a", encoding="utf-8") as file:
                file.write("answer\n" * size)

    def _save(self) -> Pauses:
        yield from self.timed("save", SAVE_S)
        self.position.seconds = self._elapsed_s()
        self.position.events_bytes = self.run.events.stat().st_size
        folder = self.run.checkpoints / f"step-{self.position.step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / POSITION, asdict(self.position))
        self.saved_at = self.clock.monotonic()
        self.run.append_event({"event": "checkpoint", "step": self.position.step, "seconds": self._elapsed_s()})

    def _elapsed_s(self) -> float:
        return self.earlier_s + self.clock.monotonic() - self.began

    def _asked_to_stop(self) -> bool:
        stop = read_json(self.run.stop)
        return stop is not None and bool(stop["attempt"] == self.attempt)

    def _facts(self, step: int) -> Json:
        stage = "sft" if step <= self.recipe.sft_steps else "dpo"
        facts = {"event": "step", "stage": stage, "step": step, "loss": 1.0, "grad_norm": 1.0, "tokens": 40 * step}
        return {**facts, "learning_rate": self.recipe.learning_rate, "seconds": self._elapsed_s(), "left_s": None}

    def _measured(self) -> Json:
        step = self.position.step
        known = {"steps": step, "examples": step * self.recipe.batch_size, "tokens": 40 * step}
        return {"rungs": self.position.rungs, **known, "peak_memory_bytes": 1, "trainable_parameters": 1}


def newest(run: RunDir) -> Position | None:
    """The newest checkpoint of a run that was written to its end."""
    for path in sorted(run.checkpoints.glob("step-*"), reverse=True):
        if found := read_json(path / POSITION):
            return Position(**found)
    return None


def params(recipe: Recipe, space: Mapping[str, Parameter]) -> dict[str, Value]:
    """The parameters that this recipe was made of, those that do not matter to it included."""
    weights = {WEIGHT + source.name: source.weight for source in recipe.sources}
    fields: dict[str, Any] = {**weights, **dict(recipe)}
    return {name: fields[name] for name in space}


@cache
def _reference(path: str, sha256: str, count: int) -> tuple[Prompt, ...]:
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return subset.take(tuple(map(Prompt.model_validate_json, lines)), count)


@cache
def _fresh(path: str, sha256: str, count: int) -> tuple[Prompt, ...]:
    """The search half's prompts that no trial is asked, in the order of the final race."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return subset.rest(tuple(map(Prompt.model_validate_json, lines)), count)


def _asked(found: Mapping[str, Sequence[int]]) -> dict[int, race.Asked]:
    return {int(key): race.Asked(followed=bool(followed), tokens=tokens) for key, (followed, tokens) in found.items()}


def _scored(verdicts: Sequence[Verdict], seconds: float) -> Json:
    made = Score.of(verdicts, looped=0, empty=0, prompts_sha256="0" * 64, exact=True, seconds=seconds)
    return made.model_dump(mode="json")


def _verdict(prompt: Prompt, followed: bool) -> Verdict:
    each = (followed,) * len(prompt.instruction_id_list)
    kinds = prompt.instruction_id_list
    return Verdict(key=prompt.key, instruction_id_list=kinds, strict=each, loose=each, tokens=20, capped=False)


def _sample(prompt: Prompt, followed: bool) -> str:
    verdicts = {"strict": followed, "loose": followed, "capped": False, "decided": False}
    return json.dumps({"key": prompt.key, "prompt": prompt.prompt, "response": "an answer", **verdicts}) + "\n"
