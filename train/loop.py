"""One recipe in, one adapter out: stages, rungs, checkpoints, and going on where an earlier process stopped.

Lines of events.jsonl that are written here, by their "event":

    data         fingerprint of everything that is trained on; sources: the fields of SourceUse, by name
    step         the fields of StepFacts; of a step that was made again after a kill, the last line counts
    rung         fraction, step, bits_per_byte, seconds
    edge         step, bits_per_byte, seconds: the end of the supervised stage, where no rung is
    turned       step; best: the step of the lowest rung, whose adapter is kept
    checkpoint   step, seconds
    damaged      checkpoints: the names of those that did not verify, and were passed over
    resumed      step: the checkpoint that an attempt began with; what follows it replaces later steps before it
    best         step: whose weights the supervised stage ends with, since the held-out loss had risen by its end
    completed, pruned, stopped   step: how an attempt ended
"""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from train.checkpoint import Checkpoint, at_step, damaged, newest, save, step_name
from train.data import splits as data
from train.data.splits import Splits
from train.forecast import Forecast
from train.horizon import Fixed, Horizon, StageName
from train.model import (
    LoadedBase,
    adapter_parameters,
    adapter_tensors,
    drop_adapter,
    fresh_adapter,
    quiet,
    set_adapter_tensors,
    trainable_parameters,
    untouched,
)
from train.phases import PhaseSeconds
from train.position import Position
from train.probe import bits_per_byte
from train.recipe import Recipe
from train.rundir import RunDir
from train.saving import save_adapter
from train.sft import sft_trainer
from train.stage import OutOfMemory, Stage, TrainingFailed, stages
from train.trained import Outcome, Trained, peak_memory_bytes, planned_step_s
from train.watch import StepFacts, Unwatched, Watch

__all__ = ["OutOfMemory", "StepFacts", "Trained", "TrainingFailed", "Unwatched", "Watch", "save_adapter", "train"]

RUNGS = (0.25, 0.5, 1.0)


def train(
    recipe: Recipe,
    run: RunDir,
    base: LoadedBase,
    *,
    watch: Watch | None = None,
    rungs: Sequence[float] = RUNGS,
    checkpoint_every_s: float = 300.0,
    splits: Splits | None = None,
    horizon: Horizon | None = None,
) -> Trained:
    """Train `recipe` in `run` on `base`, from the newest checkpoint that verifies on, to its end or the watch's.

    At each of `rungs` (fractions of the horizon over both stages): checkpoint, probe, event, watch.rung. A completed
    run has its adapter in run.adapter. The caller drops the adapter from the base when it is done with it (train.model.
    drop_adapter) and the checkpoints when the result is durable (train.checkpoint.discard).

    Raises TrainingFailed where a loss or gradient is not finite or a checkpoint cannot be written, OutOfMemory, and
    RecipeError where the data cannot be used; the base is then clean. `splits`: the data, where it is made already.
    `horizon`: who decides where the run ends, where that is not the recipe.
    """
    run.create(recipe)
    torch.set_num_threads(recipe.threads)
    if base.device.type == "cuda":
        gc.collect()  # what an earlier call that failed left behind
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds = PhaseSeconds()
    with seconds.phase("data"):
        horizon = horizon or Fixed(recipe)
        splits = splits or data.splits(horizon.most, base.tokenizer, base.context)
    sources = {name: asdict(use) for name, use in splits.facts.items()}
    run.append_event({"event": "data", "fingerprint": splits.fingerprint, "sources": sources})
    found, watch = newest(run), watch or Unwatched()
    if passed_over := damaged(run, found):
        run.append_event({"event": "damaged", "checkpoints": passed_over})
    watch.begins(found.position.step if found else 0, passed_over)
    here = _Attempt(recipe, run, base, splits, watch, horizon, sorted(rungs), checkpoint_every_s, seconds, found)
    try:
        with quiet():
            here.go()
    except BaseException as error:
        drop_adapter(base.model)
        if isinstance(error, torch.OutOfMemoryError):
            raise here.out_of_memory(error) from error
        raise
    return here.trained()


@dataclass
class _Attempt:
    """One call of `train`: where the run is, and what is done after each step."""

    recipe: Recipe
    run: RunDir
    base: LoadedBase
    splits: Splits
    watch: Watch
    horizon: Horizon
    rungs: Sequence[float]
    checkpoint_every_s: float
    seconds: PhaseSeconds
    checkpoint: Checkpoint | None
    outcome: Outcome | None = None
    model: Any = None

    def __post_init__(self) -> None:
        self.position = self.checkpoint.position if self.checkpoint else Position()
        self.earlier_s = self.position.seconds
        self.saved_at = time.monotonic()
        self.forecast = Forecast(planned_step_s(self.recipe, self.base))

    def go(self) -> None:
        """Make the steps that are left, and the adapter's files."""
        with self.seconds.phase("train"):
            self.model = fresh_adapter(self.base, self.recipe)
        if self.checkpoint:
            set_adapter_tensors(self.model, self.checkpoint.adapter())
            self.run.append_event({"event": "resumed", "step": self.position.step})
        self.horizon.resume(self.position.decisions, self.position.step)
        self.pass_rungs(self.due())
        for stage in stages(self.horizon):
            if self.outcome is None and self.position.step < self.end_of(stage.name):
                self.train_stage(stage)
            if self.outcome is None and stage.name == "sft":
                self.take_best()
        self.model.eval()
        if self.outcome is None:
            with self.seconds.phase("save"), self.writing("adapter", self.run.path):
                save_adapter(self.model, self.run)
            self.outcome = "completed"
        self.run.append_event({"event": self.outcome, "step": self.position.step})

    def end_of(self, stage: StageName) -> int:
        """The step where a stage ends, as far as is decided."""
        now = self.horizon.course.now
        return now.sft_steps if stage == "sft" else now.steps

    def take_best(self) -> None:
        """At the end of a supervised stage, where the held-out loss has clearly risen: go back to the best weights."""
        if self.position.step != self.end_of("sft") or not self.position.has_risen:
            return
        if best := at_step(self.run, self.position.best_step):
            set_adapter_tensors(self.model, best.adapter())
            self.position = replace(self.position, back_to=best.position.step)
            self.run.append_event({"event": "best", "step": best.position.step})
        else:
            name = step_name(self.position.best_step)
            self.run.append_event({"event": "damaged", "checkpoints": [name]})

    def train_stage(self, stage: Stage) -> None:
        """Make the steps of `stage` that are left, or as many as the watch allows."""
        with self.seconds.phase("train"), untouched(self.base.model):
            trainer = self.trainer(stage)
            try:
                trainer.train()
            finally:
                if "ref" in self.model.peft_config:
                    self.model.delete_adapter("ref")

    def trainer(self, stage: Stage) -> Any:
        """The trainer of `stage` from here on; within a stage, with its optimizer and random states as they were."""
        start = self.position.step
        begun = self.checkpoint if start > stage.first else None
        make, rows = self._stage(stage)
        if begun and stage.name == "dpo":
            set_adapter_tensors(self.model, begun.reference())  # which the trainer copies
        trainer = make(self.recipe, stage, start, self.base, self.model, rows, str(self.run.path))
        if begun:
            set_adapter_tensors(self.model, begun.adapter())
        trainer.add_callback(_EachStep(self, stage, begun))
        return trainer

    def _stage(self, stage: Stage) -> tuple[Any, Any]:
        if stage.name == "sft":
            return sft_trainer, self.splits.sft
        from train.dpo import dpo_trainer  # not before it is needed: TRL's trainer takes a while to import

        return dpo_trainer, self.splits.dpo

    def stepped(self, facts: StepFacts, optimizer: Any) -> None:
        """Record a step; then checkpoint, probe and ask, as is due."""
        if not (math.isfinite(facts.loss) and math.isfinite(facts.grad_norm)):
            raise TrainingFailed(
                f"loss {facts.loss:g} with gradient norm {facts.grad_norm:g} at step {facts.step} of "
                f"{self.recipe.steps} ({facts.stage}), learning rate {facts.learning_rate:g}: lower the learning rate"
            )
        self.position = replace(self.position, step=facts.step, tokens=facts.tokens, seconds=facts.seconds)
        self.run.append_event({"event": "step", **asdict(facts)})
        self.watch.step(facts)
        self.horizon.made("sft" if facts.stage == "sft" else "dpo", facts.step)
        due = self.due()
        now = self.horizon.course.now
        timed = time.monotonic() - self.saved_at >= self.checkpoint_every_s
        if saved := bool(timed or due or facts.step == now.sft_steps < now.steps):
            self.save(facts.stage, optimizer)
        self.pass_rungs(due)
        if self.outcome is None and facts.step < self.horizon.course.now.steps and self.watch.should_stop():
            if not saved:
                self.save(facts.stage, optimizer)
            self.outcome = "stopped"

    def due(self) -> list[float]:
        """The rungs at this step that are not in the position yet: both by what was decided until it and by what is
        decided now, since the end may have come nearer, or gone farther away."""
        step, course = self.position.step, self.horizon.course
        courses = (course.before(step), course)
        return [f for f in self.rungs if step in {c.step_at(f) for c in courses} and str(f) not in self.position.rungs]

    def pass_rungs(self, due: Sequence[float]) -> None:
        """Measure, once, and report the rungs that are due; measure the end of the supervised stage, too."""
        value = None
        for fraction in due:
            if self.outcome is not None:
                return
            value = self.probed() if value is None else value
            self.position = replace(self.position, rungs={**self.position.rungs, str(fraction): value})
            facts = {"fraction": fraction, "step": self.position.step, "bits_per_byte": value}
            self.run.append_event({"event": "rung", **facts, "seconds": self.elapsed_s()})
            if not self.watch.rung(fraction, self.position.step, value):
                self.outcome = "pruned"
        if self.horizon.keeps_best and self.position.step <= (end := self.end_of("sft")):
            if value is None and 0 < self.position.step == end:
                value = self.probed()
                facts = {"step": end, "bits_per_byte": value, "seconds": self.elapsed_s()}
                self.run.append_event({"event": "edge", **facts})
            if value is not None:
                self.compare(value)

    def probed(self) -> float:
        """The probe at this step."""
        with self.seconds.phase("probe"):
            value = bits_per_byte(self.base, self.model, self.splits.probe)
        if not math.isfinite(value):
            raise TrainingFailed(f"the probe at step {self.position.step} measures {value}: lower the learning rate")
        return value

    def compare(self, value: float) -> None:
        """Keep the lowest held-out loss in mind; where it has turned, let a supervised stage under way end here."""
        self.position = at = self.position.measured(value)
        if at.has_turned and at.step < self.end_of("sft"):
            self.run.append_event({"event": "turned", "step": at.step, "best": at.best_step})
            self.horizon.turned("sft", at.step)

    def save(self, stage: str, optimizer: Any) -> None:
        """Write a checkpoint."""
        with self.seconds.phase("save"), self.writing("checkpoint", self.run.checkpoints):
            reference = adapter_tensors(self.model, "ref") if stage == "dpo" else None
            with open(self.run.events, "rb") as events:
                os.fsync(events.fileno())  # the steps before a checkpoint are not made again
            adapter, parameters = adapter_tensors(self.model), adapter_parameters(self.model)
            if self.horizon.keeps_best:
                self.position = replace(self.position, decisions=self.horizon.course.decisions)
            save(self.run, self.position, adapter, reference, optimizer, parameters)
        self.saved_at = time.monotonic()
        self.run.append_event({"event": "checkpoint", "step": self.position.step, "seconds": self.elapsed_s()})

    @contextmanager
    def writing(self, what: str, where: Path) -> Iterator[None]:
        """Explain a full or broken disk."""
        try:
            yield
        except OSError as error:
            raise TrainingFailed(
                f"the {what} of step {self.position.step} cannot be written to {where} ({error.strerror or error}): "
                "make room and start again; the run goes on from its last checkpoint"
            ) from error

    def elapsed_s(self) -> float:
        """Process seconds of the run so far."""
        return self.earlier_s + self.seconds.total()

    def out_of_memory(self, error: torch.OutOfMemoryError) -> OutOfMemory:
        """What to say, and to do, about `error`."""
        recipe, reason = self.recipe, str(error).split(". ")[0]
        less = "" if recipe.gradient_checkpointing else ", or set gradient_checkpointing = true"
        less = f", or uncheckpointed_layers ({recipe.uncheckpointed_layers})" if recipe.uncheckpointed_layers else less
        chosen = "; where the plan chose what is checkpointed, lower memory_gib" if less else ""
        return OutOfMemory(
            f"out of memory after step {self.position.step} of {recipe.steps} ({reason}): lower micro_batch_size "
            f"({recipe.micro_batch_size}) or max_length ({recipe.max_length}){less}{chosen}"
        )

    def trained(self) -> Trained:
        """What `train` returns."""
        assert self.outcome is not None
        return Trained(
            outcome=self.outcome,
            model=self.model,
            steps=self.position.step,
            examples=self.position.step * self.recipe.batch_size,
            tokens=self.position.tokens,
            seconds=dict(self.seconds.by_phase),
            rungs={float(fraction): value for fraction, value in self.position.rungs.items()},
            peak_memory_bytes=peak_memory_bytes(self.base.device),
            trainable_parameters=trainable_parameters(self.model),
            back_to=self.position.back_to,
        )


class _EachStep(transformers.TrainerCallback):  # type: ignore[misc]
    """Hands each optimizer step of one trainer to the attempt; first, gives the trainer back its states."""

    def __init__(self, attempt: _Attempt, stage: Stage, resumed: Checkpoint | None) -> None:
        self.attempt, self.stage, self.resumed = attempt, stage, resumed
        self.start, self.tokens_before = attempt.position.step, attempt.position.tokens
        self.ready = time.monotonic()

    def on_train_begin(self, *_: Any, optimizer: Any, model: Any, **__: Any) -> None:
        # Only now: accelerate has taken the optimizer's state out and put it in again, which unpages paged tensors.
        if self.resumed:
            self.resumed.restore_optimizer(optimizer, adapter_parameters(model))
        self.ready = time.monotonic()
        self.attempt.horizon.begin_stage()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        if self.resumed:
            self.resumed.restore_rng()
            self.resumed = None

    def on_log(self, _: Any, state: Any, control: Any, *, logs: Mapping[str, Any], optimizer: Any, **__: Any) -> None:
        state.log_history.clear()
        if "loss" not in logs:  # the summary at the end
            return
        step, took = self.start + state.global_step, time.monotonic() - self.ready
        facts = StepFacts(
            stage=self.stage.name,
            step=step,
            loss=logs["loss"],
            learning_rate=logs["learning_rate"],
            grad_norm=logs["grad_norm"],
            seconds=self.attempt.elapsed_s(),
            tokens=self.tokens_before + int(logs["num_tokens"]),
            left_s=self.attempt.forecast.left_s(self.stage.name, step, took, self.attempt.horizon.course.now),
        )
        self.attempt.stepped(facts, optimizer)
        self.ready = time.monotonic()
        self.attempt.horizon.begin_step()
        if self.attempt.outcome is not None or step >= self.attempt.end_of(self.stage.name):
            control.should_training_stop = True
