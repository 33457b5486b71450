"""A final run: its hours, its interruptions, and that its adapter does not depend on them."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import tiny
from tiny_train import make_recipe

from train import final, loop, status
from train.clock import spelled
from train.decisions import FILE, Decisions
from train.final import Limits
from train.horizon import Decision
from train.hours import LATEST
from train.interrupts import Signals, Stopped, one_at_a_time
from train.recipe import Recipe, RecipeError, Source
from train.rundir import RunDir, write_json
from train.until import Until, next_time

HOURS = 1.0


@pytest.fixture(scope="session")
def long_recipe(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Twenty steps, the last five of them DPO, on files."""
    folder = tmp_path_factory.mktemp("data")
    tiny.write_data(folder)
    sources = (
        Source(name="plain", path=str(folder / "plain.jsonl")),
        Source(name="pairs", path=str(folder / "pairs.jsonl"), use="preference"),
    )
    return make_recipe(
        base_folder, sources=sources, examples=80, dpo_share=0.25, max_length=256, chat_template=tiny.TEMPLATE
    )


def train(recipe: Recipe, run: RunDir, show: Callable[[str], None] = lambda _: None, **limits: Any) -> None:
    """With data for the recipe's own steps alone, if nothing else is said."""
    run.path.mkdir(exist_ok=True)
    held = Limits(**{"hours": HOURS, "longest": recipe.examples, "checkpoint_minutes": 1e9, **limits})
    with Signals() as signals:
        final.train_within(recipe, run, "cpu", held, signals, show)


def digest(run: RunDir) -> str:
    return hashlib.sha256((run.adapter / "adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def uninterrupted(long_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    run = RunDir(tmp_path_factory.mktemp("whole") / "final")
    train(long_recipe, run)
    return run


def test_a_run_leaves_its_adapter_and_its_facts(long_recipe: Recipe, uninterrupted: RunDir) -> None:
    facts = final.trained(uninterrupted)
    assert facts is not None
    assert (facts["outcome"], facts["ended"], facts["back_to"]) == ("completed", "data", 0)
    assert facts.keys() == set(final.FACTS)
    assert (facts["steps"], facts["examples"]) == (20, 80)
    assert [float(fraction) for fraction in facts["rungs"]] == list(final.RUNGS)
    assert facts["seconds"]["train"] > 0
    assert (uninterrupted.adapter / "adapter_config.json").exists()
    assert not uninterrupted.checkpoints.exists()
    assert status.progress(long_recipe, uninterrupted, HOURS).endswith(
        "the data bear no more; the scores are missing yet"
    )


def test_a_second_start_does_not_train_again(long_recipe: Recipe, uninterrupted: RunDir) -> None:
    before = (digest(uninterrupted), uninterrupted.events.read_bytes(), uninterrupted.clock.read_bytes())
    train(long_recipe, uninterrupted, show=pytest.fail)
    assert (digest(uninterrupted), uninterrupted.events.read_bytes(), uninterrupted.clock.read_bytes()) == before


def interrupter(number: int, at: int) -> Callable[[str], None]:
    """Sends this process a signal when the line of step `at` is shown."""

    def show(line: str) -> None:
        if line.startswith(f"step {at} of"):
            os.kill(os.getpid(), number)

    return show


@pytest.mark.parametrize("steps", [(1,), (4, 10, 17)])
def test_signals_cost_nothing_but_time(
    long_recipe: Recipe, uninterrupted: RunDir, tmp_path: Path, steps: tuple[int, ...]
) -> None:
    run = RunDir(tmp_path / "final")
    for at in steps:
        with pytest.raises(Stopped) as stopped:
            train(long_recipe, run, interrupter(signal.SIGTERM, at))
        assert stopped.value.code == 128 + signal.SIGTERM
        assert final.trained(run) is None
        assert f"step {at} of 20 (" in status.progress(long_recipe, run, HOURS)
    train(long_recipe, run)
    assert digest(run) == digest(uninterrupted)
    assert sum(event["event"] == "resumed" for event in run.read_events()) == len(steps)


def test_a_signal_after_the_last_step_loses_nothing(long_recipe: Recipe, uninterrupted: RunDir, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "final")
    with pytest.raises(Stopped):
        train(long_recipe, run, interrupter(signal.SIGINT, 20))
    assert final.trained(run) == {**(final.trained(run) or {}), "outcome": "completed"}
    train(long_recipe, run, show=pytest.fail)
    assert digest(run) == digest(uninterrupted)


def test_hours_that_run_out_keep_what_was_learned(long_recipe: Recipe, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "final")
    run.path.mkdir()
    write_json(run.clock, {"spent_s": 3600 * HOURS * LATEST - 0.5})
    lines: list[str] = []
    train(long_recipe, run, lines.append)
    facts = final.trained(run)
    assert facts is not None
    assert (facts["outcome"], facts["ended"]) == ("completed", "hours")
    assert 1 <= facts["steps"] < 20
    assert (run.adapter / "adapter_model.safetensors").exists()
    assert facts["seconds"]["train"] <= 3600 * HOURS


def test_a_start_for_which_no_time_is_left_keeps_the_newest_checkpoint(long_recipe: Recipe, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "final")
    with pytest.raises(Stopped):
        train(long_recipe, run, interrupter(signal.SIGTERM, 4))
    spent_s = 3600 * HOURS - 0.2
    write_json(run.clock, {"spent_s": spent_s})
    lines: list[str] = []
    train(long_recipe, run, lines.append)
    assert lines[0] == "no time is left for a further step: the newest checkpoint is the result"
    facts = final.trained(run)
    assert facts is not None
    assert (facts["ended"], facts["steps"], facts["seconds"]) == ("hours", 4, {"train": spent_s})
    assert Decisions(run.path / FILE, long_recipe).read()[-1] == Decision(4, 4, 4, "hours")


def test_hours_that_are_used_up_without_a_checkpoint_are_told(long_recipe: Recipe, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "final")
    run.path.mkdir()
    write_json(run.clock, {"spent_s": 3600 * HOURS})
    with pytest.raises(final.Failed, match=r"the hours are used up, and .* has no checkpoint; move it away"):
        train(long_recipe, run)


def test_hours_that_loading_uses_up_are_too_few(long_recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"loading took all that was left, 0 seconds, and was not done; .* more hours"
    ):
        train(long_recipe, RunDir(tmp_path / "final"), hours=1e-6)


def test_what_earlier_starts_used_is_not_told_as_loading(
    long_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(tmp_path / "final")
    run.path.mkdir()
    write_json(run.clock, {"spent_s": 100.0})
    slow_to_load(monkeypatch, 60.0)
    said = r"left, 1 seconds, and was not done; the run may use 101, of which earlier starts had used 100: give it more"
    with pytest.raises(RecipeError, match=said):
        train(long_recipe, run, hours=101 / 3600)


def test_where_a_start_goes_on_from_is_told_and_a_damaged_checkpoint_is_named(
    long_recipe: Recipe, uninterrupted: RunDir, tmp_path: Path
) -> None:
    run, lines = RunDir(tmp_path / "final"), list[str]()
    for at in (4, 8):
        with pytest.raises(Stopped):
            train(long_recipe, run, interrupter(signal.SIGTERM, at))
    os.truncate(run.checkpoints / "step-00000008" / "optimizer.safetensors", 100)
    train(long_recipe, run, lines.append)
    assert lines[:2] == [
        "checkpoint step-00000008 is damaged, and passed over",
        "going on from the checkpoint of step 6",
    ]
    (event,) = (event for event in run.read_events() if event["event"] == "damaged")
    assert event["checkpoints"] == ["step-00000008"]
    assert digest(run) == digest(uninterrupted)


def test_what_a_further_start_does_is_told_by_what_is_there(
    long_recipe: Recipe, uninterrupted: RunDir, tmp_path: Path
) -> None:
    run = RunDir(tmp_path / "final")
    assert status.from_where(run) == "start it again, and it begins with its first step"
    with pytest.raises(Stopped):
        train(long_recipe, run, interrupter(signal.SIGTERM, 4))
    assert status.from_where(run).endswith("it goes on from its newest checkpoint")
    assert "it goes on with the scores" in status.from_where(uninterrupted)


def test_a_replay_does_not_say_that_its_hours_were_used(
    long_recipe: Recipe, uninterrupted: RunDir, tmp_path: Path
) -> None:
    run = RunDir(tmp_path / "final")
    run.path.mkdir()
    Decisions(run.path / FILE, long_recipe).take(uninterrupted.path / FILE)
    lines: list[str] = []
    train(long_recipe, run, lines.append)
    assert lines[0].startswith("its end is that of another run, which it makes again")
    facts = final.trained(run)
    assert facts is not None
    assert final.spent(facts, HOURS).endswith("(where the run ended that it makes again)")
    assert digest(run) == digest(uninterrupted)


def slow_to_load(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Loading takes that much longer."""
    loaded = final._loaded

    def late(recipe: Recipe, device: str) -> Any:
        time.sleep(seconds)
        return loaded(recipe, device)

    monkeypatch.setattr(final, "_loaded", late)


def test_a_start_counts_its_loading_and_none_begins_that_would_only_load(
    long_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(tmp_path / "final")
    slow_to_load(monkeypatch, 1.0)
    with pytest.raises(Stopped):
        train(long_recipe, run, interrupter(signal.SIGTERM, 4))
    (took_s,) = (event["took_s"] for event in run.read_events() if event["event"] == "under_way")
    assert took_s >= 1.0
    spent_s = 3600 * HOURS * LATEST - 1.0
    write_json(run.clock, {"spent_s": spent_s})
    train(long_recipe, run)
    facts = final.trained(run)
    assert facts is not None
    assert (facts["ended"], facts["steps"], facts["seconds"]) == ("hours", 4, {"train": spent_s})


def test_hours_that_run_out_while_a_later_start_loads_keep_the_newest_checkpoint(
    long_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(tmp_path / "final")
    with pytest.raises(Stopped):
        train(long_recipe, run, interrupter(signal.SIGTERM, 4))
    left_s = 2 * final._needed_s(run) + 0.1
    write_json(run.clock, {"spent_s": 1000.0 * LATEST - left_s})
    late_once(monkeypatch, final, "_loaded")
    train(long_recipe, run, hours=1000 / 3600)
    kept_after_4_steps(run, 1000.0)


def kept_after_4_steps(run: RunDir, allowance_s: float) -> None:
    """The run ended with the checkpoint of step 4, and used no more than its hours, but nearly all of them."""
    facts = final.trained(run)
    assert facts is not None
    assert (facts["ended"], facts["steps"]) == ("hours", 4)
    assert 0.998 * allowance_s <= facts["seconds"]["train"] <= allowance_s


@pytest.mark.parametrize("where", ["data", "step", "probe", "adapter"])
def test_whatever_takes_far_longer_than_before_is_broken_off_within_the_hours(
    long_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    run = RunDir(tmp_path / "final")
    with pytest.raises(Stopped):
        train(long_recipe, run, interrupter(signal.SIGTERM, 4))
    write_json(run.clock, {"spent_s": 994.0})
    fakes = {"data": (loop.data, "splits"), "probe": (loop, "bits_per_byte"), "adapter": (loop, "fresh_adapter")}
    if where in fakes:
        late_once(monkeypatch, *fakes[where])

    def show(line: str) -> None:
        if where == "step" and line.startswith("step 5 of"):
            time.sleep(60)

    lines: list[str] = []
    train(long_recipe, run, lambda line: (lines.append(line), show(line))[0], hours=1000 / 3600)
    assert "no time is left for a further step: the newest checkpoint is the result" in lines
    kept_after_4_steps(run, 1000.0)
    again = RunDir(tmp_path / "again")
    again.path.mkdir()
    Decisions(again.path / FILE, long_recipe).take(run.path / FILE)
    train(long_recipe, again)
    assert digest(again) == digest(run)


def late_once(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
    """A function that takes a minute when it is called for the first time."""
    function, calls = getattr(module, name), list[str]()

    def late(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        time.sleep(60 if len(calls) == 1 else 0)
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, late)


def test_hours_that_one_step_uses_up_are_told(long_recipe: Recipe, tmp_path: Path) -> None:
    def show(line: str) -> None:
        if line.startswith("step 1 of"):
            time.sleep(60)

    run = RunDir(tmp_path / "final")
    run.path.mkdir()
    write_json(run.clock, {"spent_s": 990.0})
    with pytest.raises(final.Failed, match=r"the hours are used up, and .* has no checkpoint"):
        train(long_recipe, run, show, hours=1000 / 3600)


def test_a_replay_goes_on_whatever_its_clock_says(long_recipe: Recipe, uninterrupted: RunDir, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "final")
    run.path.mkdir()
    Decisions(run.path / FILE, long_recipe).take(uninterrupted.path / FILE)
    train(long_recipe, run, hours=1e-6)
    assert digest(run) == digest(uninterrupted)


def at(time_of_day: str, seconds_before: float) -> Until:
    """That time of day, which is so many seconds away."""
    now = next_time(time_of_day, time.time()) - seconds_before
    return Until(time_of_day, now, lambda: now)


def test_before_a_known_switch_off_a_checkpoint_is_saved(
    long_recipe: Recipe, uninterrupted: RunDir, tmp_path: Path
) -> None:
    run, until = RunDir(tmp_path / "final"), at("03:00", 1000.0)
    left = iter([1000.0, 1000.0, 1000.0, 61.0, 59.0])
    soon = Until("03:00", until.began, lambda: next_time("03:00", until.began) - next(left))
    with pytest.raises(Stopped, match="saved, since it is nearly 03:00") as stopped:
        train(long_recipe, run, until=soon)
    assert stopped.value.code == 0
    assert [event["step"] for event in run.read_events() if event["event"] == "stopped"] in ([3], [4])
    train(long_recipe, run)
    assert digest(run) == digest(uninterrupted)


def test_shortly_before_a_switch_off_nothing_is_begun(long_recipe: Recipe, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "final")
    with pytest.raises(Stopped, match="not begun, since it is nearly 03:00"):
        train(long_recipe, run, until=at("03:00", 30.0))
    assert list(run.path.iterdir()) == []


def test_a_full_disk_is_told_and_costs_nothing_but_time(
    long_recipe: Recipe, uninterrupted: RunDir, tmp_path: Path
) -> None:
    run, (soft, hard) = RunDir(tmp_path / "final"), resource.getrlimit(resource.RLIMIT_FSIZE)

    def show(line: str) -> None:
        if line.startswith("step 7 of"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # as good as one

    try:
        with pytest.raises(final.Failed, match=r"(final|checkpoints|clock.json|events.jsonl).*(make room|start again)"):
            train(long_recipe, run, show, checkpoint_minutes=0.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    train(long_recipe, run)
    assert [event["step"] for event in run.read_events() if event["event"] == "resumed"] == [6]
    assert digest(run) == digest(uninterrupted)


def test_the_status_tells_hours_step_loss_and_end(long_recipe: Recipe, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "final")
    run.path.mkdir()
    decisions = Decisions(run.path / FILE, long_recipe)
    decisions.append(Decision(0, 300, 400), 0.0)
    decisions.append(Decision(60, 900, 1200, "pace"), 300.0)
    write_json(run.clock, {"spent_s": 1800.0})
    run.append_event({"event": "start"})
    for step in range(1, 301):
        run.append_event({"event": "step", "step": step, "loss": 2.0 - step / 300, "seconds": 60.0 + 2.0 * step})
    run.append_event({"event": "rung", "bits_per_byte": 0.75, "seconds": 662.0})
    run.append_event({"event": "start"})
    now = datetime(2026, 3, 2, 22, 0).timestamp()
    told = [
        "step 300 of 1,200 (25%), loss 1.0000, 0.7500 bits per byte at the last probe",
        "used: 0.50 of 1 hours, over 2 starts; not at work: start it again, and it goes on",
        "to go: about 30.0 minutes",
        "its end, as it was decided:",
        "  step      400   as frozen",
        "  step    1,200   after step 60: the measured pace",
    ]
    assert status.progress(long_recipe, run, HOURS, now).splitlines() == told
    with one_at_a_time(run):
        working = status.progress(long_recipe, run, HOURS, now).splitlines()
    assert working[1] == "used: 0.50 of 1 hours, over 2 starts; at work now"
    assert working[2] == "to go: about 30.0 minutes; without a break until Mon 02 Mar, 22:30"


def test_signals_outside_training_end_at_once() -> None:
    with Signals(), pytest.raises(Stopped) as stopped:
        os.kill(os.getpid(), signal.SIGINT)
    assert stopped.value.code == 128 + signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_signal_does_not_wait() -> None:
    with Signals() as signals:
        signals.patient = True
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.number == signal.SIGTERM
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "final")
    with (
        one_at_a_time(run),
        pytest.raises(RecipeError, match="another process is at work"),
        one_at_a_time(run),
    ):
        pass
    with one_at_a_time(run):
        pass


def test_training_that_fails_says_what_to_change(long_recipe: Recipe, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "final")
    run.path.mkdir()
    run.checkpoints.write_text("in the way")
    with pytest.raises(final.Failed, match=r"cannot be written to .*checkpoints"):
        train(long_recipe, run)
    assert final.trained(run) is None


def test_before_the_first_step_there_is_nothing_to_tell(long_recipe: Recipe, tmp_path: Path) -> None:
    assert status.progress(long_recipe, RunDir(tmp_path), HOURS) == "not a step is made yet"


def test_a_start_that_loads_is_told(long_recipe: Recipe, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "final")
    with one_at_a_time(run):
        run.append_event({"event": "start"})
        told = status.progress(long_recipe, run, HOURS)
    assert told == "not a step is made yet\nused: 0.00 of 1 hours, over 1 start; at work now"


@pytest.mark.parametrize(
    ("spent_s", "hours", "text"), [(5400.0, 24.0, "1.50 of 24 hours"), (30.0, 0.025, "0.50 of 1.5 minutes")]
)
def test_time_is_told_in_the_unit_that_reads_best(spent_s: float, hours: float, text: str) -> None:
    assert spelled(spent_s, 3600 * hours) == text


def test_importing_it_is_cheap() -> None:
    program = "import sys, train.final, train.preflight, train.status; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["False"]
