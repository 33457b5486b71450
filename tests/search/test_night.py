"""The whole loop on a tiny Qwen2 that the rehearsal did not make: real worker, real NF4, real checkers, real SQLite."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import tiny
from night_kit import Interrupt, ledger, started, training, wait_for, work, worker_pid

from objectives import ifeval, subset
from search import config, ranking, view
from search.errors import SearchError, StudyBusy, StudyChanged, WorkerFailed
from search.launcher import end_orphan
from storage import records
from train.rundir import RunDir, read_json


@pytest.fixture(scope="module")
def study_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_study(tmp_path_factory.mktemp("tiny"))


WATCHED = """
import os, sys
log = os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def note(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        os.write(log, (os.path.realpath(arguments[0]) + "\\n").encode())
sys.addaudithook(note)
"""


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where every process that is started from now on notes the files that it opens."""
    log, folder = tmp_path / "opened", tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WATCHED.format(log=str(log)))
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    return log


def test_a_study_runs_to_its_end_and_says_what_it_did(study_file: Path, tmp_path: Path, opened: Path) -> None:
    seen: list[view.StudyView] = []
    folder = tmp_path / "studies" / "tiny"
    prompts = study_file.with_name("prompts.jsonl")

    def watch(study: view.StudyView) -> None:
        if not seen:
            prompts.rename(prompts.with_name("away"))  # both halves: nothing that trials do needs them
        seen.append(study)

    try:
        assert work(study_file, folder, watch) == "all 4 trials are done"
    finally:
        prompts.with_name("away").rename(prompts)
    worker_opened = set(opened.read_text().splitlines())
    assert str(folder / "prompts.jsonl") in worker_opened
    assert not worker_opened & {str(prompts), str(prompts.with_name("away"))}
    half = ifeval.load_prompts(folder / "prompts.jsonl")
    assert half == subset.halves(ifeval.load_prompts(prompts))[0]
    jobs = [path.read_text() for path in (folder / "runs").glob("*/job.json")]
    assert len(jobs) == 5
    assert all(str(prompts) not in job and str(folder / "prompts.jsonl") in job for job in jobs)

    study = view.read(folder)
    assert [t.number for t in study.trials] == [0, 1, 2, 3]
    assert all(t.state in ("complete", "pruned") for t in study.trials)
    assert study.trials[0].prior == "middle"
    assert study.trials[0].params["dpo_beta"] == 0.1
    assert set(study.trials[0].rungs) == {0.25, 0.5, 1.0}
    assert study.base is not None
    assert study.base.n == 8
    assert study.best is not None
    held = records.read(folder / "study.db").trials
    first = ranking.ranked(config.load(study_file), held)[0].record
    assert study.pick is not None
    assert (study.pick.trial, study.pick.by) == (first.number, "expected")
    assert {each.pick.by for each in seen if each.pick} == {"expected"}  # at no moment another rule
    assert study.activity is None
    assert study.service_pid is None
    assert study.ending == "all 4 trials are done"
    assert "load" in {s.activity.phase for s in seen if s.activity}
    spent = ledger(folder).spent_by_cause()
    assert {"load", "train", "probe", "score", "save", "overhead"} <= set(spent)
    assert sum(spent.values()) == pytest.approx(study.spent_s)
    assert not ledger(folder).open_attempts()
    for trial in study.trials:
        result = read_json(RunDir(folder / "runs" / f"{trial.number:03d}").result)
        assert result is not None
        assert result["trainable_parameters"] > 0
        if trial.state == "complete":
            assert result["value"] == trial.value
            assert len(result["score"]["verdicts"]) == result["race"]["asked"] == trial.asked
            assert result["race"]["behind"] == trial.behind
            assert ledger(folder).attempts(trial.number)[-1].tokens == {"score": result["score"]["tokens"]}
            assert (trial.asked == 8) == (trial.behind is None) == (trial.score is not None)
            job = read_json(RunDir(folder / "runs" / f"{trial.number:03d}").job)
            assert job is not None
            before = [t.number for t in study.trials[: trial.number] if t.state == "complete"]
            assert list(map(int, job["objective"]["earlier"])) == before
        assert not RunDir(folder / "runs" / f"{trial.number:03d}").kept_answers()
    # nothing is left to do: a second start says so and changes nothing
    assert work(study_file, folder) == "all 4 trials are done"
    assert view.read(folder).trials == study.trials

    changed = study_file.with_name("changed.toml")
    changed.write_text(study_file.read_text().replace("high = 1e-1", "high = 2e-1"))
    with pytest.raises(StudyChanged, match=r"(?s)new name.*-space\.learning_rate\.high = 0\.1.*\+.*= 0\.2"):
        work(changed, folder)
    assert "2e-1" not in (folder / "study.toml").read_text()


def adapter_bytes(folder: Path, number: int) -> bytes:
    return (folder / "runs" / f"{number:03d}" / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def long_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One trial, long enough to be interrupted."""
    return tiny.write_study(tmp_path_factory.mktemp("long"), trials=1, examples=2400)


@pytest.fixture(scope="module")
def uninterrupted(long_study: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("uninterrupted") / "tiny"
    work(long_study, folder)
    return adapter_bytes(folder, 0)


@pytest.mark.parametrize("how", ["ask the service to stop", "kill the worker", "kill service and worker"])
def test_an_interrupted_trial_goes_on_and_gives_the_same_weights(
    how: str, long_study: Path, uninterrupted: bytes, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    if how == "kill service and worker":
        with started(long_study, tmp_path) as service:
            wait_for(lambda: (folder / "service.json").exists() and training(view.read(folder)))
            os.kill(service.pid, signal.SIGKILL)
            service.wait()
        wait_for(lambda: not end_orphan(folder / "runs"))
    else:
        target = (lambda s: os.getpid()) if how == "ask the service to stop" else worker_pid
        number = signal.SIGINT if how == "ask the service to stop" else signal.SIGKILL
        interrupt = Interrupt(training, lambda s: os.kill(target(s), number))
        ending = work(long_study, folder, interrupt)
        assert interrupt.done
        assert ending == ("it was asked to stop" if number == signal.SIGINT else "all 1 trials are done")

    if how != "kill the worker":
        assert [t.state for t in view.read(folder).trials] == ["interrupted"]
        assert work(long_study, folder) == "all 1 trials are done"

    assert [t.number for t in view.read(folder).trials] == [0]
    assert view.read(folder).trials[0].attempts >= 2
    assert adapter_bytes(folder, 0) == uninterrupted


@pytest.fixture(scope="module")
def endless_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One trial that no test sees the end of."""
    return tiny.write_study(tmp_path_factory.mktemp("endless"), trials=1, examples=400_000, budget_hours=1.0)


def test_the_budget_is_never_exceeded_and_more_of_it_lets_the_trial_go_on(endless_study: Path, tmp_path: Path) -> None:
    folder, steps = tmp_path / "tiny", {0}
    work(endless_study, folder, Interrupt(training, lambda _: os.kill(os.getpid(), signal.SIGINT)))
    (begun,) = [t.number for t in view.read(folder).trials if t.state == "interrupted"]  # its prior may be too dear
    budget_s = ledger(folder).spent_s()  # a trial that has begun may go on with what is too little to begin one
    while len(steps) < 3:  # a busy machine needs more seconds to get anywhere
        budget_s += 16.0
        assert "budget" in work(endless_study, folder, budget_s=budget_s)
        assert ledger(folder).spent_s() <= budget_s
        result = read_json(RunDir(folder / "runs" / f"{begun:03d}").result)
        if result:
            assert result["steps"] >= max(steps)
            steps.add(result["steps"])
    assert [t.number for t in view.read(folder).trials if t.state != "waiting"] == [begun]
    assert view.read(folder).trials[begun].state == "interrupted"


def test_a_full_disk_ends_the_night_before_the_trial_begins(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("search.loop.shutil.disk_usage", lambda _: usage._replace(free=10**6))
    folder = tmp_path / "studies" / "tiny"
    said = r"may need [\d.]+ MiB on the disk of .*tiny, [\d.]+ MiB more than are free: make room, then run `nightshift "
    with pytest.raises(SearchError, match=said):
        work(study_file, folder)
    assert "make room" in (view.read(folder).ending or "")
    assert not list((folder / "runs" / "000").glob("checkpoints/*"))
    monkeypatch.undo()
    assert work(study_file, folder) == "all 4 trials are done"
    assert [t.number for t in view.read(folder).trials] == [0, 1, 2, 3]


def test_data_that_change_in_the_night_end_it_and_cost_no_trial(tmp_path: Path) -> None:
    study_file, folder = tiny.write_study(tmp_path / "place"), tmp_path / "tiny"
    data = study_file.parent / "plain.jsonl"
    whole = data.read_bytes()
    spoil = Interrupt(
        lambda study: study.trials[0].state in view.ENDED, lambda _: data.write_bytes(whole[:-1] + b" \n")
    )
    with pytest.raises(WorkerFailed, match="No recipe is at fault, so that none counts as failed") as raised:
        work(study_file, folder, spoil)
    assert str(data) in str(raised.value)
    states = [trial.state for trial in view.read(folder).trials]
    assert (states.count("failed"), states.count("interrupted")) == (0, 1)
    with pytest.raises(SearchError):  # by day, before anything starts
        work(study_file, folder)
    data.write_bytes(whole)
    assert work(study_file, folder) == "all 4 trials are done"
    assert all(trial.state in ("complete", "pruned") for trial in view.read(folder).trials)


def test_a_study_has_one_service(long_study: Path, tmp_path: Path) -> None:
    refused: list[str] = []

    def second(study: view.StudyView) -> None:
        with pytest.raises(StudyBusy, match=f"process {os.getpid()} .* is at work"):
            work(long_study, tmp_path / "tiny")
        refused.append(study.name)
        os.kill(os.getpid(), signal.SIGINT)

    work(long_study, tmp_path / "tiny", Interrupt(lambda s: s.service_pid is not None, second))
    assert refused == ["tiny"]


def test_the_deadline_stops_the_trial_and_keeps_it(endless_study: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    assert work(endless_study, folder, deadline=time.time() + 14.0) == "the deadline is reached"
    assert not ledger(folder).open_attempts()
    states = [t.state for t in view.read(folder).trials]  # as far as it came; a prior that is too dear waits
    assert set(states) <= {"waiting", "interrupted"}
    assert states.count("interrupted") <= 1
