"""The final race on a tiny Qwen2: real worker, real adapters, real checkers, real ledger; interrupted anywhere."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import tiny
from night_kit import Interrupt, ledger, started, wait_for, work, worker_pid

from objectives import ifeval, subset
from search import config, finals_record, forecast, freeze, loop, view
from search.launcher import end_orphan
from train.rundir import Json, RunDir, read_json

PROMPTS, SUBSET, ENDS = 56, 8, (8, 16, 20)


@pytest.fixture(scope="module")
def study_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three trials that are scored, and twenty fresh prompts."""
    path = tiny.write_study(tmp_path_factory.mktemp("raced"), trials=3, finalists=3, final_hours=0.05)
    tiny.write_prompts(path.with_name("prompts.jsonl"), PROMPTS)
    text = path.read_text().replace("stages = [2, 4]", "stages = []").replace('kind = "median"', 'kind = "none"')
    path.write_text(text)
    return path


def stop() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def racing(study: view.StudyView) -> bool:
    return bool(study.race and study.race.next)


def answering(study: view.StudyView) -> bool:
    """In the second stage."""
    return racing(study) and study.activity is not None and study.race is not None and study.race.asked == ENDS[0]


@pytest.fixture(scope="module")
def trained(study_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study's folder when its trials are over and nobody has raced."""
    folder = tmp_path_factory.mktemp("trained") / "tiny"
    assert work(study_file, folder, Interrupt(racing, lambda _: stop())) == "it was asked to stop"
    assert not turns(folder)
    return folder


@pytest.fixture(scope="module")
def raced(study_file: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same once the race is over."""
    folder = copied(trained, tmp_path_factory.mktemp("raced"))
    assert work(study_file, folder).startswith("all 3 trials are done; trial ")
    return folder


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "tiny"))


def turns(folder: Path) -> dict[str, Json]:
    """The results of the turns that are over."""
    found = {path.name: finals_record.result(RunDir(path)) for path in (folder / "runs").glob("fresh-*")}
    return {name: result for name, result in found.items() if result}


def followed(folder: Path) -> dict[str, list[tuple[int, list[bool | None]]]]:
    return {
        name: [(v["key"], v["strict"]) for v in result["score"]["verdicts"]] for name, result in turns(folder).items()
    }


def test_the_finalists_answer_the_prompts_that_no_trial_was_asked(study_file: Path, raced: Path) -> None:
    study = view.read(raced)
    race = study.race
    assert race is not None
    assert study.best is not None
    assert (race.next, race.prompts, race.winner) == (None, ENDS[-1], study.best.number)
    assert study.ending == f"all 3 trials are done; trial {race.winner} won the final race"
    assert race.fresh is not None
    assert sorted(each.trial for each in race.runners) == [0, 1, 2]

    search, sealed = subset.halves(ifeval.load_prompts(study_file.with_name("prompts.jsonl")))
    fresh = {prompt.key for prompt in subset.rest(search, SUBSET)}
    asked = {name: {key for key, _ in verdicts} for name, verdicts in followed(raced).items()}
    for trial in range(3):
        of_trial = [keys for name, keys in asked.items() if name.startswith(f"fresh-{trial:03d}-")]
        assert sum(map(len, of_trial)) == len(set().union(*of_trial))  # each once
        assert set().union(*of_trial) <= fresh
    assert not fresh & {prompt.key for prompt in (*sealed, *subset.take(search, SUBSET))}


def test_every_turn_is_an_attempt_of_its_own_that_is_paid_for(raced: Path) -> None:
    made = [each for each in ledger(raced).attempts() if each.run.startswith("fresh-")]
    assert sorted(each.run for each in made) == sorted(turns(raced))
    assert all(each.outcome == "completed" and each.trial is None for each in made)
    assert all(each.costs["race"] > 0 and "load" in each.costs for each in made)
    assert [trial.attempts for trial in view.read(raced).trials] == [1, 1, 1]
    held = work_notes(raced)
    assert "final race of 3" in held


def work_notes(folder: Path) -> str:
    """The note that the dashboard shows with the study."""
    import optuna

    from storage import trials

    storage = trials.open_read_only(folder / "study.db")
    study = optuna.load_study(study_name="tiny", storage=storage)
    return str(storage.get_study_system_attrs(study._study_id)["dashboard:note_str:0"])


@pytest.mark.parametrize("how", ["ask the service to stop", "kill the worker", "kill service and worker"])
def test_a_race_that_is_interrupted_anywhere_comes_to_the_same_end(
    how: str, study_file: Path, trained: Path, raced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SHOW_EVERY_S", 0.0)  # a turn takes less than the time between two looks
    folder = copied(trained, tmp_path)
    if how == "kill service and worker":
        with started(study_file, tmp_path) as service:
            wait_for(lambda: answering(view.read(folder)))
            os.kill(service.pid, signal.SIGKILL)
            service.wait()
        wait_for(lambda: not end_orphan(folder / "runs"))
    else:
        act = (lambda _: stop()) if how == "ask the service to stop" else (lambda s: os.kill(worker_pid(s), 9))
        interrupt = Interrupt(answering, act)
        ending = work(study_file, folder, interrupt)
        assert interrupt.done
        assert (ending == "it was asked to stop") == (how == "ask the service to stop")
    before = {name: RunDir(folder / "runs" / name).result.stat().st_mtime_ns for name in turns(folder)}
    assert before
    assert work(study_file, folder) == work(study_file, raced)
    assert view.read(folder).race == view.read(raced).race
    assert followed(folder) == followed(raced)
    assert all(RunDir(folder / "runs" / name).result.stat().st_mtime_ns == when for name, when in before.items())


def test_more_trials_race_with_those_that_did_and_none_is_asked_twice(
    study_file: Path, raced: Path, tmp_path: Path
) -> None:
    folder = copied(raced, tmp_path)
    more = study_file.with_name("more.toml")
    more.write_text(study_file.read_text().replace("trials = 3", "trials = 4"))
    assert work(more, folder).startswith("all 4 trials are done; trial ")
    names = [each.run for each in ledger(folder).attempts() if each.outcome == "completed"]
    assert len(names) == len(set(names))
    race = view.read(folder).race
    assert race is not None
    assert len(race.runners) == 3
    assert race.winner is not None


def test_fewer_finalists_later_do_not_undo_a_race(study_file: Path, raced: Path, tmp_path: Path) -> None:
    folder, fewer = copied(raced, tmp_path), study_file.with_name("fewer.toml")
    fewer.write_text(study_file.read_text().replace("finalists = 3", "finalists = 1"))
    work(fewer, folder)
    assert view.read(folder).race == view.read(raced).race


def test_fewer_finalists_race_where_nobody_was_asked_yet(study_file: Path, trained: Path, tmp_path: Path) -> None:
    folder, fewer = copied(trained, tmp_path), study_file.with_name("fewer.toml")
    fewer.write_text(study_file.read_text().replace("finalists = 3", "finalists = 1"))
    work(fewer, folder)
    race = view.read(folder).race
    assert race is not None
    assert len(race.runners) == 1


def test_a_finalist_whose_adapter_is_gone_is_left_out(study_file: Path, trained: Path, tmp_path: Path) -> None:
    folder = copied(trained, tmp_path)
    shutil.rmtree(folder / "runs" / "001" / "adapter")
    assert work(study_file, folder).startswith("all 3 trials are done; trial ")
    race = view.read(folder).race
    assert race is not None
    outs = {each.trial: each.out for each in race.runners}
    assert "could not be asked: RecipeError" in outs[1]
    assert race.winner in (0, 2)


def test_a_night_that_ends_first_leaves_the_race_for_the_next(study_file: Path, trained: Path, tmp_path: Path) -> None:
    folder = copied(trained, tmp_path)
    assert work(study_file, folder, deadline=1.0) == "the deadline is reached"
    assert not turns(folder)
    budget_s = ledger(folder).spent_s() + 1.0
    ending = work(study_file, folder, budget_s=budget_s)
    assert ending == "all 3 trials are done; the final race is not over"
    assert ledger(folder).spent_s() <= budget_s


def test_a_study_without_a_trial_reckons_with_the_race_as_it_is_planned(study_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    assert work(study_file, folder, Interrupt(lambda _: True, lambda _: stop())) == "it was asked to stop"
    assert {trial.state for trial in view.read(folder).trials} == {"waiting"}
    assert forecast.kept(folder).kept_s > 0


def test_freeze_takes_the_winner_and_says_so(study_file: Path, trained: Path, raced: Path, tmp_path: Path) -> None:
    said: list[str] = []
    before = copied(trained, tmp_path / "before")
    freeze.freeze(config.load(study_file), before, say=said.append)
    start = f"`nightshift start {study_file}` goes on to that race"
    picked = f"trial {best(before)}, of which most is expected"
    assert said[0] == f"the final race of 3 is not over: 0 of 20 fresh prompts asked; frozen is {picked}; {start}"
    (before / finals_record.FILE).unlink()
    again: list[str] = []
    freeze.freeze(config.load(study_file), before, say=again.append)
    assert again[0] == f"the best 3 trials were not compared on fresh prompts yet; frozen is {picked}; {start}"
    origin = freeze.constant(before / freeze.FILE)["origin"]
    assert (origin["race"], origin["picked"], origin["trial"]) == (None, picked, best(before))

    after, told = copied(raced, tmp_path / "after"), []
    winner = next(number for number in range(3) if number != best(before))
    named = json.loads((after / finals_record.FILE).read_text())
    named["race"]["winner"] = winner  # another one than the search's best
    (after / finals_record.FILE).write_text(json.dumps(named))
    freeze.freeze(config.load(study_file), after, say=told.append)
    assert told[0].startswith(f"trial {winner} won the final race of 3: ")
    origin = freeze.constant(after / freeze.FILE)["origin"]
    assert (origin["trial"], origin["race"]["said"]) == (winner, told[0])
    assert view.read(after).best == view.read(after).trials[winner]


def best(folder: Path) -> int:
    found = view.read(folder).best
    assert found is not None
    return found.number


def test_a_study_without_fresh_prompts_says_so(study_file: Path, tmp_path: Path) -> None:
    loaded = config.load(study_file)
    assert finals_record.nothing_to_ask(loaded, 28) == ""
    assert finals_record.nothing_to_ask(loaded, 8) == (
        "no final race: subset is all of the search half, 8 prompts, so that none of them is fresh"
    )
    assert read_json(tmp_path / finals_record.FILE) is None
