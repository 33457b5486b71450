"""A study folder without a night's work: a real study file, Optuna study, ledger and RunDirs, with made figures."""

from __future__ import annotations

import atexit
import functools
import json
import math
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import tiny

from objectives.score import Answer, Score, Verdict
from search import config, notes, service, space, survey
from search.config import StudyConfig
from search.study import OpenTrial, Study
from storage import db, trials
from storage.ledger import Holder, Ledger
from storage.records import TrialRecord
from train.planning import fitting, plan
from train.recipe import Recipe
from train.rundir import RunDir, write_atomic, write_json

TYPES = (
    "change_case:english_lowercase",
    "detectable_content:number_placeholders",
    "detectable_format:number_bullet_lists",
    "detectable_format:title",
    "keywords:existence",
    "keywords:forbidden_words",
    "length_constraints:number_words",
    "punctuation:no_comma",
    "startend:end_checker",
    "startend:quotation",
)
STATES = "CCPCCPCXCPCCCPFC"  # C complete, P pruned, X does not fit, F failed, R running; B behind trial 0, half asked


class MadeStudy:
    """The study in `folder` with trials in `states`; everything drawn comes from `seed`."""

    def __init__(self, study_file: Path, folder: Path, states: str = STATES, seed: int = 0) -> None:
        self.config: StudyConfig = config.load(study_file)
        self.folder = folder
        self.random = random.Random(seed)
        self.survey = survey.survey(self.config)
        (folder / "runs").mkdir(parents=True)
        write_atomic(folder / "study.toml", self.config.portable_text)
        storage = trials.open_storage(folder / "study.db")
        engine = db.engine(folder / "study.db")
        self.ledger = Ledger(engine)
        budget_s = 3600 * self.config.study.budget_hours
        with service.claim(folder) as claim:
            claim.announce(trials_wanted=len(states), budget_s=budget_s, until=None)
            self.study = Study.open(storage, self.config, self.survey)
            self._base()
            for state in states:
                self._trial(state)
            claim.ending = f"all {len(states)} trials are done"
        storage.engine.dispose()
        engine.dispose()

    def score(self, quality: float, count: int) -> Score:
        """A score of `count` prompts, each of one or two instructions that are followed with that probability."""
        verdicts = []
        for key in range(count):
            types = tuple(self.random.sample(TYPES, self.random.choice([1, 1, 2])))
            strict = tuple(self.random.random() < quality for _ in types)
            loose = tuple(followed or self.random.random() < 0.05 for followed in strict)
            verdicts.append(
                Verdict(key=key, instruction_id_list=types, strict=strict, loose=loose, tokens=40, capped=False)
            )
        return Score.of(verdicts, looped=0, empty=0, prompts_sha256="0" * 64, exact=True, seconds=3.2)

    def _attempt(self, run: RunDir, trial: int | None, seconds: dict[str, float], outcome: str) -> int:
        holder = Holder("made", "boot", 1, 1)
        attempt = self.ledger.open_attempt(trial, run.path.name, holder, 10.0, math.inf)
        used = sum(seconds.values()) + 0.3
        while used > attempt.paid_s:
            attempt = self.ledger.pay(attempt.id, 10.0, math.inf)
        if outcome == "died":
            self.ledger.abandon(attempt.id, "the service ended without closing it")
        else:
            self.ledger.close(attempt.id, used, outcome, seconds)
        return attempt.id

    def _base(self) -> None:
        run = RunDir(self.folder / "runs" / "base")
        run.create(space.recipe(self.config, {}, self.survey))
        seconds = {"load": 6.5, "probe": 0.4, "score": 2.1}
        attempt = self._attempt(run, None, seconds, "completed")
        result = {"attempt": attempt, "outcome": "completed", "reason": "", **self._scored(0.05), "bits_per_byte": 3.1}
        write_json(run.result, {**result, "seconds": seconds})

    def _scored(self, quality: float, behind: int | None = None) -> dict[str, Any]:
        """What a result says of scoring: of all the subset, or of the half after which the trial was behind."""
        subset = self.config.objective.subset
        asked = subset if behind is None else subset // 2
        score = self.score(quality, asked)
        return {
            "reason": "" if behind is None else f"behind trial {behind} after {asked} of {subset} prompts",
            "score": score.model_dump(mode="json"),
            "value": score.prompt_strict.value if behind is None else 0.0,
            "race": {"asked": asked, "of": subset, "behind": behind},
        }

    def _trial(self, state: str) -> None:
        trial = self.study.next_trial()
        run = RunDir(self.folder / "runs" / f"{trial.number:03d}")
        recipe = space.recipe(self.config, trial.params, self.survey)
        run.create(recipe)
        planned = plan.plan(recipe, self.survey.base, "cpu")
        if state == "X":
            self.study.constrain(trial, 0.2)
            self.study.set_infeasible(trial, fitting.misfit(recipe, self.survey.base, "cpu", planned.peak_bytes - 1))
            return
        self.study.constrain(trial, -0.4)
        if trial.number == 2:
            self._attempt(run, trial.number, {"train": 4.0}, "died")
        if state != "R":
            self._end(trial, run, recipe, planned, state)

    def _end(self, trial: OpenTrial, run: RunDir, recipe: Recipe, planned: plan.Plan, state: str) -> None:
        quality = self._quality(recipe)
        fractions = [0.25, 0.5, 1.0] if state in "CB" else [0.25]
        rungs = {f: 1.1 - 0.5 * quality + 1.2 * math.exp(-4 * f) + self.random.gauss(0, 0.02) for f in fractions}
        steps = round(recipe.steps * (max(fractions) if state != "F" else 0.1))
        rate = 40 * recipe.batch_size**0.2
        self._events(run, recipe, steps, quality, rate, rungs if state != "F" else {})
        seconds = {"data": 0.3, "train": steps * recipe.batch_size / rate, "probe": 0.6, "save": 0.2}
        outcome = {"C": "completed", "B": "completed", "P": "pruned", "F": "failed"}[state]
        result: dict[str, Any] = {
            "outcome": outcome,
            "reason": "TrainingFailed: loss nan with gradient norm 7.1 <b>&</b> | at step 3" if state == "F" else "",
            "score": None,
            "rungs": {str(f): bits for f, bits in rungs.items()} if state != "F" else {},
            "steps": steps,
            "examples": steps * recipe.batch_size,
            "tokens": steps * recipe.batch_size * 31,
            "peak_memory_bytes": round(planned.peak_bytes * self.random.uniform(0.93, 1.01)),
            "trainable_parameters": planned.trainable_parameters,
        }
        if state in "CB":
            seconds["score"] = 2.4
            result |= self._scored(quality, 0 if state == "B" else None)
        attempt = self._attempt(run, trial.number, seconds, outcome)
        write_json(run.result, {"attempt": attempt, **result, "seconds": seconds})
        self._tell(trial, planned, result, sum(seconds.values()), state)

    def _tell(self, trial: OpenTrial, planned: plan.Plan, result: dict[str, Any], seconds: float, state: str) -> None:
        for fraction, bits in result["rungs"].items():
            self.study.report(trial, float(fraction), bits)
        attributes = notes.attributes(f"{trial.number:03d}", planned, result, seconds)
        self.study.annotate(trial, attributes, notes.note(trial.params, trial.prior, planned, result, []))
        if state in "CB":
            self.study.complete(trial, result["value"])
        elif state == "P":
            self.study.prune(trial)
        else:
            self.study.fail(trial, result["reason"])

    def _quality(self, recipe: Recipe) -> float:
        """How good a recipe is in this made world: the learning rate matters most, then the rank."""
        rate = math.log10(recipe.learning_rate) + 2.0
        quality = 0.85 - 0.5 * rate**2 - 0.08 * abs(math.log2(recipe.rank) - 2) + self.random.gauss(0, 0.04)
        return min(0.97, max(0.03, quality))

    def _events(
        self, run: RunDir, recipe: Recipe, steps: int, quality: float, rate: float, rungs: dict[float, float]
    ) -> None:
        due = {recipe.step_at(fraction): (fraction, bits) for fraction, bits in rungs.items()}
        lines = []
        for step in range(1, steps + 1):
            stage = "sft" if step <= recipe.sft_steps else "dpo"
            clean = 0.8 + 2.4 * math.exp(-3.5 * step / recipe.steps) - 0.6 * quality
            loss = clean if stage == "sft" else 0.69 - 0.3 * quality * (step - recipe.sft_steps) / recipe.steps
            facts = {"stage": stage, "step": step, "loss": loss + self.random.gauss(0, 0.06), "grad_norm": 1.2}
            facts |= {"learning_rate": recipe.learning_rate, "tokens": step * recipe.batch_size * 31}
            lines.append({"event": "step", **facts, "seconds": 0.5 + step * recipe.batch_size / rate})
            if step in due:
                fraction, bits = due[step]
                lines.append({"event": "rung", "fraction": fraction, "step": step, "bits_per_byte": bits})
        write_atomic(run.events, "".join(json.dumps(line) + "\n" for line in lines))

    def finish(self, recipe: Recipe, quality: float = 0.86, outcome: str = "completed") -> RunDir:
        """A final run of `recipe` with its result."""
        run = RunDir(self.folder / "final")
        run.create(recipe)
        rungs = {f / 10: 0.62 + 1.1 * math.exp(-5 * f / 10) + self.random.gauss(0, 0.01) for f in range(1, 11)}
        self._events(run, recipe, recipe.steps, quality, 55.0, rungs)
        planned = plan.plan(recipe, self.survey.base, "cpu")
        spread = {"p50": 0.012, "p95": 0.015}
        parts = {"search": 150, "sealed": 150, "all": 300}
        result = {
            "outcome": outcome,
            "steps": recipe.steps,
            "examples": recipe.examples,
            "tokens": recipe.examples * 31,
            "seconds": {"train": recipe.examples / 55.0},
            "rungs": {str(f): bits for f, bits in rungs.items()},
            "scores": {part: self.score(quality, n).model_dump(mode="json") for part, n in parts.items()},
            "base_scores": {part: self.score(0.05, n).model_dump(mode="json") for part, n in parts.items()},
            "latency": {
                "device": "cpu",
                "prompt_tokens": 64,
                "new_tokens": 64,
                "runs": 10,
                "first_token_s": spread,
                "per_token_s": spread,
                "tokens_per_s": {"p50": 81.3, "p95": 88.0},
                "peak_memory_bytes": 812_000_000,
            },
            "size": {
                "total_parameters": self.survey.base.parameters + planned.trainable_parameters,
                "trainable_parameters": planned.trainable_parameters,
                "adapter_bytes": 4 * planned.trainable_parameters + 3000,
                "loaded_bytes": 1_400_000,
            },
            "trainable_parameters": planned.trainable_parameters,
            "peak_memory_bytes": round(planned.peak_bytes * 0.97),
            "versions": {"python": "3.11.9", "torch": "2.13.0"},
            "recipe_sha256": recipe.digest,
        }
        answer = Answer(text="blue and\n<script>alert(1)</script>", tokens=9, capped=False)
        sample = {"key": 1, "prompt": "Say | blue", "response": answer.text, "strict": True, "loose": True}
        write_atomic(run.samples, json.dumps({**sample, "capped": False}) + "\n")
        write_json(run.result, result)
        return run


def write_study_file(folder: Path, **values: Any) -> Path:
    """A study file with a model, data and prompts (see tests/tiny.py, which is asked for them once in a process)."""
    shutil.copytree(_files(), folder, dirs_exist_ok=True)
    path = folder / "study.toml"
    path.write_text(tiny.study_text(**{"final_hours": 0.05, **values}), encoding="utf-8")
    return path


@functools.cache
def _files() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="made-study-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tiny.write_study(folder)
    return folder


def record(number: int, value: float | None, state: str = "complete", **more: Any) -> TrialRecord:
    """A trial as the database gives it, with what `more` says."""
    facts = {"params": {}, "user_attrs": {}, "rungs": {}, "constraints": {}, "started": None, "ended": None}
    return TrialRecord(number=number, trial_id=number + 1, state=state, value=value, **{**facts, **more})  # type: ignore[arg-type]
