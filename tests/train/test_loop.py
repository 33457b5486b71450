from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import tiny_train
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny_train import make_recipe, make_splits, write_llama

from train.checkpoint import newest
from train.data.splits import splits as load_splits
from train.horizon import Fixed
from train.loop import OutOfMemory, StepFacts, Trained, TrainingFailed, Unwatched, train
from train.model import COMPUTE_DTYPE, LoadedBase, adapter_tensors, drop_adapter, load_adapter, load_base
from train.planning.plan import inspect_base, plan
from train.recipe import Base, Probe, Recipe, Schedule, Source
from train.rundir import RunDir
from train.stage import learning_rate_factor, stages

IN_ONE_GO: dict[str, Any] = {"rungs": (), "checkpoint_every_s": math.inf}


@pytest.fixture
def runs(tmp_path: Path) -> Callable[[], RunDir]:
    """A new folder at each call."""
    made: list[RunDir] = []

    def new() -> RunDir:
        made.append(RunDir(tmp_path / f"{len(made):03d}"))
        return made[-1]

    return new


def go(recipe: Recipe, run: RunDir, base: LoadedBase, **options: Any) -> Trained:
    """Train and drop the adapter again."""
    trained = train(recipe, run, base, **{"splits": make_splits(recipe), **options})
    drop_adapter(trained.model)
    return trained


def adapter(run: RunDir) -> bytes:
    return (run.adapter / "adapter_model.safetensors").read_bytes()


def alone(recipe: Recipe, run: RunDir, **options: Any) -> bytes:
    """The adapter that `recipe` gives on a base of its own."""
    go(recipe, run, load_base(recipe.base, threads=1, device="cpu"), **options)
    return adapter(run)


def events(run: RunDir, kind: str) -> list[dict[str, Any]]:
    return [event for event in run.read_events() if event["event"] == kind]


class Stop(Unwatched):
    """Stops at the first question after `step`."""

    def __init__(self, step: int) -> None:
        self.at, self.now = step, 0

    def step(self, facts: StepFacts) -> None:
        self.now = facts.step

    def should_stop(self) -> bool:
        return self.now >= self.at


class Noted(Unwatched):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.steps: list[StepFacts] = []
        self.rungs: list[tuple[float, int, float]] = []

    def step(self, facts: StepFacts) -> None:
        self.steps.append(facts)

    def rung(self, fraction: float, step: int, bits_per_byte: float) -> bool:
        self.rungs.append((fraction, step, bits_per_byte))
        return True


# A run


def test_a_run_is_recorded_step_by_step(base: LoadedBase, both: Recipe, runs: Any) -> None:
    run, watch, began = runs(), Noted(), time.monotonic()
    trained = go(both, run, base, watch=watch)
    wall_s = time.monotonic() - began

    assert (trained.outcome, trained.steps, trained.examples) == ("completed", 8, 32)
    assert [step.step for step in watch.steps] == list(range(1, 9))
    assert [step.stage for step in watch.steps] == ["sft"] * 4 + ["dpo"] * 4
    assert [event["loss"] for event in events(run, "step")] == [step.loss for step in watch.steps]
    left = [event["left_s"] for event in events(run, "step")]
    assert left[:3] == [None] * 3  # warming up, on a machine that the plan knows no speed of
    assert all(seconds > 0 for seconds in left[3:-1])
    assert left[-1] == 0.0
    rungs = [(event["fraction"], event["step"], event["bits_per_byte"]) for event in events(run, "rung")]
    assert rungs == watch.rungs
    assert [(fraction, step) for fraction, step, _ in rungs] == [(0.25, 2), (0.5, 4), (1.0, 8)]
    assert trained.rungs == {fraction: value for fraction, _, value in rungs}
    assert len({value for _, _, value in rungs}) == 3
    assert [event["step"] for event in events(run, "checkpoint")] == [2, 4, 8]
    assert set(trained.seconds) == {"data", "train", "probe", "save"}
    assert all(seconds >= 0 for seconds in trained.seconds.values())
    assert 0 < watch.steps[-1].seconds <= wall_s
    assert 0 < sum(trained.seconds.values()) <= wall_s
    assert trained.peak_memory_bytes > 50e6
    assert trained.trainable_parameters == 4 * 2 * (128 + 96 + 96 + 128 + 3 * 192)


def test_tokens_are_counted_without_padding_and_nothing_is_cut(base: LoadedBase, base_folder: Path, runs: Any) -> None:
    recipe = make_recipe(base_folder, examples=3, batch_size=3, micro_batch_size=3, max_length=2048)
    splits = make_splits(recipe)
    rows = [{"input_ids": [5] * length, "labels": [-100] + [5] * (length - 1)} for length in (1500, 3, 1100)]
    trained = go(recipe, runs(), base, splits=replace(splits, sft=splits.sft.from_list(rows)), **IN_ONE_GO)
    assert trained.tokens == 2603


def test_a_run_writes_its_own_files_and_says_nothing(
    base: LoadedBase, both: Recipe, runs: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    run = runs()
    go(both, run, base)
    names = {str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()}
    assert {name for name in names if not name.startswith("checkpoints/step-")} == {
        "recipe.json",
        "events.jsonl",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    }
    assert not any(name.endswith((".bin", ".pt", ".pth")) for name in names)
    assert capfd.readouterr() == ("", "")


def test_nothing_is_reported_to_the_hub(
    base: LoadedBase, both: Recipe, runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    monkeypatch.delenv("CI", raising=False)  # where TRL would send nothing anyhow
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", lambda topic, **_: sent.append(topic))
    go(both, runs(), base, **IN_ONE_GO)
    assert sent == []


def test_the_adapter_on_disk_is_the_one_returned(base: LoadedBase, recipe: Recipe, runs: Any) -> None:
    run = runs()
    trained = train(recipe, run, base, splits=make_splits(recipe), **IN_ONE_GO)
    returned = adapter_tensors(trained.model)
    drop_adapter(trained.model)
    loaded = load_adapter(base, run.adapter)
    assert all(torch.equal(tensor, returned[name]) for name, tensor in adapter_tensors(loaded).items())
    drop_adapter(loaded)


def test_the_loss_is_that_of_the_labelled_tokens_of_the_rows_in_their_order(
    base: LoadedBase, base_folder: Path, runs: Any
) -> None:
    recipe = make_recipe(base_folder, learning_rate=1e-12, dropout=0.0)
    run, rows = runs(), make_splits(recipe).sft
    go(recipe, run, base, **IN_ONE_GO)
    for event in events(run, "step"):
        nats, count = 0.0, 0
        for row in rows.select(range(4 * (event["step"] - 1), 4 * event["step"])):
            with torch.no_grad():
                logits = base.model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
            labels = torch.tensor(row["labels"][1:])
            nats += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
            count += int((labels != -100).sum())
        assert event["loss"] == pytest.approx(nats / count, rel=1e-5)


def test_dpo_begins_at_the_result_of_the_supervised_stage(base: LoadedBase, both: Recipe, runs: Any) -> None:
    run = runs()
    go(both, run, base, **IN_ONE_GO)
    losses = [event["loss"] for event in events(run, "step") if event["stage"] == "dpo"]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)  # policy and reference are the same
    assert losses[-1] < losses[0]


def test_gradient_checkpointing_changes_no_weight(base: LoadedBase, both: Recipe, runs: Any) -> None:
    one = runs()
    go(both, one, base, **IN_ONE_GO)
    for uncheckpointed in (0, 1):
        two, update = runs(), {"gradient_checkpointing": True, "uncheckpointed_layers": uncheckpointed}
        go(both.model_copy(update=update), two, base, **IN_ONE_GO)
        assert adapter(one) == adapter(two)


@pytest.mark.parametrize(
    ("changes", "less"),
    [
        ({}, ", or set gradient_checkpointing = true; where the plan chose what is checkpointed, lower memory_gib"),
        (
            {"gradient_checkpointing": True, "uncheckpointed_layers": 1},
            ", or uncheckpointed_layers (1); where the plan chose what is checkpointed, lower memory_gib",
        ),
        ({"gradient_checkpointing": True}, ""),
    ],
)
def test_too_little_memory_is_told_with_what_to_lower(
    base: LoadedBase, base_folder: Path, runs: Any, changes: dict[str, Any], less: str
) -> None:
    class Exhausting(Unwatched):
        def step(self, facts: StepFacts) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with pytest.raises(OutOfMemory) as caught:
        go(make_recipe(base_folder, **changes), runs(), base, watch=Exhausting())
    start = "out of memory after step 1 of 6 (CUDA out of memory): lower micro_batch_size (2) or max_length (64)"
    assert str(caught.value) == start + less


# The learning rate


@given(
    schedule=st.sampled_from(get_args(Schedule)),
    warmup=st.floats(0, 1),
    decay=st.floats(0.01, 1),
    steps=st.integers(1, 500),
)
def test_the_learning_rate_rises_to_its_peak_and_falls(
    schedule: Schedule, warmup: float, decay: float, steps: int
) -> None:
    recipe = make_recipe(Path("base"), schedule=schedule, warmup=warmup, decay=decay)
    factors = [learning_rate_factor(recipe, step, steps) for step in range(steps)]
    rising = math.ceil(warmup * steps)
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[: rising + 1] == sorted(factors[: rising + 1])
    assert factors[rising:] == sorted(factors[rising:], reverse=True)
    assert rising == steps or factors[rising] == 1.0
    if schedule != "constant":
        assert learning_rate_factor(recipe, steps, steps) == 0.0
    if schedule == "wsd":
        assert all(factor == 1.0 for factor in factors[rising : max(rising, steps - math.ceil(decay * steps)) + 1])


def test_each_stage_has_its_own_schedule(base: LoadedBase, base_folder: Path, runs: Any) -> None:
    recipe = make_recipe(base_folder, examples=32, dpo_share=0.5, schedule="linear", warmup=0.25)
    run = runs()
    go(recipe, run, base, **IN_ONE_GO)
    rates = [event["learning_rate"] for event in events(run, "step")]
    shape = [1 / 2, 1, 2 / 3, 1 / 3]
    assert rates == pytest.approx([1e-2 * x for x in shape] + [1e-3 * x for x in shape])


def test_a_run_without_dpo_has_one_stage(recipe: Recipe, both: Recipe) -> None:
    assert [(stage.name, stage.first, stage.last) for stage in stages(Fixed(recipe))] == [("sft", 0, 6)]
    assert [(stage.name, stage.first, stage.last) for stage in stages(Fixed(both))] == [("sft", 0, 4), ("dpo", 4, 8)]


# Nothing leaks


@pytest.mark.parametrize("first", ["recipe", "both"])
@pytest.mark.parametrize("second", ["recipe", "both"])
def test_a_trial_after_another_is_the_trial_alone(
    base_folder: Path, runs: Any, request: pytest.FixtureRequest, first: str, second: str
) -> None:
    a: Recipe = request.getfixturevalue(first)
    b: Recipe = request.getfixturevalue(second)
    a = a.model_copy(update={"rank": 8, "targets": "mlp", "gradient_checkpointing": True, "seed": 9})
    shared = load_base(Base(model=str(base_folder)), threads=1, device="cpu")
    go(a, runs(), shared)
    run = runs()
    go(b, run, shared)
    assert adapter(run) == alone(b, runs())


def test_a_trial_after_one_that_failed_is_the_trial_alone(base_folder: Path, both: Recipe, runs: Any) -> None:
    class Broken(Unwatched):
        def step(self, facts: StepFacts) -> None:
            if facts.step == 6:
                raise KeyError("the watch broke")

    shared = load_base(Base(model=str(base_folder)), threads=1, device="cpu")
    with pytest.raises(KeyError):
        go(both, runs(), shared, watch=Broken())
    run = runs()
    go(both, run, shared)
    assert adapter(run) == alone(both, runs())


def test_probes_and_checkpoints_change_nothing(base: LoadedBase, both: Recipe, runs: Any) -> None:
    without, with_all = runs(), runs()
    go(both, without, base, **IN_ONE_GO)
    go(both, with_all, base, rungs=tuple(step / 8 for step in range(1, 9)), checkpoint_every_s=0.0)
    assert len(events(with_all, "rung")) == len(events(with_all, "checkpoint")) == 8
    assert adapter(without) == adapter(with_all)


# Going on


@pytest.mark.parametrize("step", range(1, 8))
def test_a_run_stopped_after_any_step_goes_on_bit_for_bit(base: LoadedBase, both: Recipe, runs: Any, step: int) -> None:
    whole, stopped = runs(), runs()
    expected = go(both, whole, base)
    first = go(both, stopped, base, watch=Stop(step))
    assert (first.outcome, first.steps) == ("stopped", step)
    assert not stopped.adapter.exists()
    second = go(both, stopped, base)
    assert (second.outcome, second.steps, second.tokens) == ("completed", 8, expected.tokens)
    assert second.rungs == expected.rungs
    assert adapter(stopped) == adapter(whole)
    assert [event["step"] for event in events(stopped, "resumed")] == [step]
    alike = ("step", "stage", "loss", "learning_rate", "grad_norm", "tokens")
    assert [[event[key] for key in alike] for event in events(stopped, "step")] == [
        [event[key] for key in alike] for event in events(whole, "step")
    ]
    seconds = [event["seconds"] for event in events(stopped, "step")]
    assert seconds == sorted(seconds)


def test_a_bfloat16_base_as_on_cuda_goes_on_bit_for_bit_too(
    base_folder: Path, both: Recipe, runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(COMPUTE_DTYPE, "cpu", torch.bfloat16)
    base = load_base(Base(model=str(base_folder)), threads=1, device="cpu")
    assert base.model.dtype == torch.bfloat16
    whole, stopped = runs(), runs()
    expected = go(both, whole, base)
    go(both, stopped, base, watch=Stop(3))
    go(both, stopped, base, watch=Stop(6))
    assert go(both, stopped, base).rungs == expected.rungs
    assert adapter(stopped) == adapter(whole)
    assert {tensor.dtype for tensor in load_file(whole.adapter / "adapter_model.safetensors").values()} == {
        torch.float32
    }


PLAIN = {"packing": False, "dropout": 0.0, "micro_batch_size": 4}
# Rank 64 gives weights of the 4,096 numbers from which on optimizers keep their states in 8 bits.
EIGHT_BIT = {"dpo_share": 0.5, "rank": 64, "weight_decay": 0.1}


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(PLAIN, id="plain"),
        pytest.param({**PLAIN, "packing": True}, id="packed"),
        pytest.param({**PLAIN, "micro_batch_size": 1}, id="accumulation"),
        pytest.param({"dropout": 0.0, "micro_batch_size": 1, "max_length": 32}, id="packed-accumulation"),
        pytest.param({**PLAIN, "dropout": 0.3}, id="dropout"),
        pytest.param({"dropout": 0.3, "gradient_checkpointing": True}, id="packed-dropout-checkpointing"),
        pytest.param({"dpo_share": 0.4}, id="stage-edge"),
        pytest.param({**EIGHT_BIT, "optimizer": "adamw_8bit"}, id="adamw-8bit"),
        pytest.param({**EIGHT_BIT, "optimizer": "paged_adamw_8bit"}, id="paged-adamw-8bit"),
    ],
)
def test_a_run_stopped_after_every_step_goes_on_bit_for_bit(
    base: LoadedBase, base_folder: Path, runs: Any, fields: dict[str, Any]
) -> None:
    recipe = make_recipe(base_folder, examples=24, **fields)
    whole, stopped = runs(), runs()
    go(recipe, whole, base, **IN_ONE_GO)
    for step in range(1, 6):
        assert go(recipe, stopped, base, watch=Stop(step), **IN_ONE_GO).steps == step
    assert go(recipe, stopped, base, **IN_ONE_GO).outcome == "completed"
    assert adapter(stopped) == adapter(whole)


def test_a_run_stopped_after_every_step_goes_on_over_the_edges_of_epochs(
    base: LoadedBase, base_folder: Path, runs: Any, tmp_path: Path
) -> None:
    rows = [{"prompt": f"say {word}", "response": word} for word in ("one", "two", "three", "four", "five", "six")]
    (tmp_path / "made.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = make_recipe(
        base_folder,
        sources=(Source(name="made", path=str(tmp_path / "made.jsonl")),),
        probe=Probe(rows=1),
        chat_template="{% for m in messages %}{{ m.content }} {% endfor %}",
    )
    splits = load_splits(recipe, base.tokenizer)
    assert splits.facts["made"].rows_used == 5  # 24 examples are almost five epochs
    whole, stopped = runs(), runs()
    go(recipe, whole, base, splits=splits, **IN_ONE_GO)
    for step in range(1, 6):
        assert go(recipe, stopped, base, splits=splits, watch=Stop(step), **IN_ONE_GO).steps == step
    go(recipe, stopped, base, splits=load_splits(recipe, base.tokenizer), **IN_ONE_GO)
    assert adapter(stopped) == adapter(whole)


def test_a_killed_run_goes_on_bit_for_bit(base: LoadedBase, both: Recipe, runs: Any) -> None:
    whole, killed = runs(), runs()
    go(both, whole, base)
    killed.create(both)
    child = [sys.executable, tiny_train.__file__, str(killed.path), "6"]
    assert subprocess.run(child, check=False).returncode == -signal.SIGKILL
    found = newest(killed)
    assert found is not None
    assert found.position.step >= 5
    go(both, killed, base)
    assert adapter(killed) == adapter(whole)


def test_a_run_goes_on_from_the_newest_checkpoint_that_verifies(base: LoadedBase, both: Recipe, runs: Any) -> None:
    whole, damaged = runs(), runs()
    go(both, whole, base)
    go(both, damaged, base, watch=Stop(7), checkpoint_every_s=0.0)
    path = damaged.checkpoints / "step-00000007" / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    go(both, damaged, base)
    assert [event["step"] for event in events(damaged, "resumed")] == [6]
    assert adapter(damaged) == adapter(whole)


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
def test_a_run_takes_no_more_of_the_disk_than_was_planned(
    base: LoadedBase, base_folder: Path, runs: Any, kind: str
) -> None:
    recipe = make_recipe(base_folder, rank=64, optimizer=kind, examples=24, dpo_share=0.5)
    run = runs()
    go(recipe, run, base, checkpoint_every_s=0.0)
    kept = sum(path.stat().st_size for path in run.checkpoints.rglob("*") if path.is_file())
    whole = sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file()) + kept // 2
    planned = plan(recipe, inspect_base(str(base_folder)), "cpu").disk_bytes
    assert planned - 5 * 2**20 < whole <= planned


def test_a_completed_run_is_completed_again_without_a_step(base: LoadedBase, both: Recipe, runs: Any) -> None:
    run, watch = runs(), Noted()
    first = go(both, run, base)
    expected = adapter(run)
    again = go(both, run, base, watch=watch)
    assert again.outcome == "completed"
    assert (again.steps, again.tokens, again.rungs) == (first.steps, first.tokens, first.rungs)
    assert watch.steps == []
    assert watch.rungs == [(1.0, 8, first.rungs[1.0])]  # whether anybody heard of it the run cannot know
    assert adapter(run) == expected


def test_a_rung_that_nobody_answered_is_measured_again(base: LoadedBase, recipe: Recipe, runs: Any) -> None:
    class Cut(Noted):
        def rung(self, fraction: float, step: int, bits_per_byte: float) -> bool:
            super().rung(fraction, step, bits_per_byte)
            raise SystemExit

    run, cut, after = runs(), Cut(), Noted()
    with pytest.raises(SystemExit):
        go(recipe, run, base, watch=cut)
    go(recipe, run, base, watch=after)
    assert after.rungs[0] == cut.rungs[0]
    assert [fraction for fraction, _, _ in after.rungs] == [0.25, 0.5, 1.0]
    assert after.steps[0].step == cut.rungs[0][1] + 1


# Ending early


@pytest.mark.parametrize(("fraction", "steps"), [(0.25, 2), (0.5, 3), (1.0, 6)])
def test_a_pruned_run_ends_at_its_rung(
    base: LoadedBase, recipe: Recipe, runs: Any, fraction: float, steps: int
) -> None:
    class Pruner(Noted):
        def rung(self, at: float, step: int, bits_per_byte: float) -> bool:
            super().rung(at, step, bits_per_byte)
            return at < fraction

    run, watch = runs(), Pruner()
    trained = go(recipe, run, base, watch=watch)
    assert (trained.outcome, trained.steps, len(watch.steps)) == ("pruned", steps, steps)
    assert max(trained.rungs) == fraction
    assert not run.adapter.exists()
    assert next(iter(events(run, "pruned")))["step"] == steps


@pytest.fixture(scope="session")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    """A base for which token 100 is infinite."""
    base = load_base(Base(model=str(write_llama(tmp_path_factory.mktemp("poisoned")))), threads=1, device="cpu")
    base.model.get_input_embeddings().weight[100] = math.inf
    return base


def test_a_loss_that_is_not_finite_ends_the_run(poisoned: LoadedBase, runs: Any) -> None:
    recipe = make_recipe(Path(poisoned.base.model))
    splits = make_splits(recipe, below=100)
    rows = splits.sft.to_list()
    rows[9]["input_ids"][0] = 100
    run = runs()
    with pytest.raises(
        TrainingFailed, match=r"loss nan with .* at step 3 of 6 \(sft\), learning rate 0.00904508: lower the learning"
    ):
        go(recipe, run, poisoned, splits=replace(splits, sft=splits.sft.from_list(rows)), **IN_ONE_GO)
    assert [event["step"] for event in events(run, "step")] == [1, 2]
    assert not hasattr(poisoned.model, "peft_config")


def test_a_probe_that_is_not_finite_ends_the_run(poisoned: LoadedBase, runs: Any) -> None:
    recipe = make_recipe(Path(poisoned.base.model))
    splits = make_splits(recipe, below=100)
    probe = tuple(replace(row, input_ids=[100, *row.input_ids[1:]]) for row in splits.probe)
    with pytest.raises(TrainingFailed, match="the probe at step 2 measures nan"):
        go(recipe, runs(), poisoned, splits=replace(splits, probe=probe))


def test_a_checkpoint_that_cannot_be_written_ends_the_run(base: LoadedBase, recipe: Recipe, runs: Any) -> None:
    run = runs()
    run.create(recipe)
    run.checkpoints.write_text("in the way")
    with pytest.raises(TrainingFailed, match=r"the checkpoint of step 2 cannot be written to .*checkpoints"):
        go(recipe, run, base)
