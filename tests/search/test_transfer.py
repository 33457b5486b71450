"""What a study takes from an earlier one: which recipes, in what order, once, and what is refused."""

from __future__ import annotations

import itertools
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_study
import optuna
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from objectives.score import Measure
from search import config, finals_record, space, survey, transfer
from search.cli import app
from search.config import StudyConfig
from search.errors import SearchError, StudyChanged
from search.finals import Finalist, run
from search.points import Points
from search.study import Study
from search.transfer import Earlier, Taken
from storage import records, trials

WHOLE = {"learning_rate": 1e-2, "rank": 4, "batch_size": 8, "weight.chat": 0.5, "dpo_share": 0.0}
record = made_study.record


def load(folder: Path, **changes: str) -> StudyConfig:
    """The tiny study's configuration, with parts of its text replaced; no model or data is there."""
    text = tiny.study_text(name="new", final_hours=0.05)
    for old, new in changes.items():
        line = next(line for line in text.splitlines() if line.startswith(old + " ="))
        text = text.replace(line + "\n", new + "\n", 1)
    (folder / "study.toml").write_text(text)
    return config.load(folder / "study.toml")


@pytest.fixture(scope="module")
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    return load(tmp_path_factory.mktemp("config"))


# Ranks


def test_scored_trials_come_before_those_that_ended_at_a_rung_and_these_by_how_far_they_came() -> None:
    found = [
        record(0, None, "pruned", rungs={25: -0.7}),
        record(1, 0.3),
        record(2, None, "pruned", rungs={25: -2.0, 50: -0.9}),
        record(3, 0.6),
        record(4, None, "pruned", rungs={25: -0.6}),
        record(5, 0.6),
        record(6, None, "pruned", user_attrs={"infeasible": "too large"}, rungs={}),
        record(7, None, "failed", rungs={25: -0.1}),
        record(8, None, "running", rungs={50: -0.1}),
        record(9, None, "waiting"),
        record(10, None, "pruned"),
    ]
    assert [trial.number for trial in transfer.ranked(found)] == [3, 5, 1, 2, 4, 0]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.floats(0.1, 3))
def test_only_ranks_count(values: list[float], power: float) -> None:
    as_scored = [record(number, value) for number, value in enumerate(values)]
    harder = [replace(trial, value=math.log1p(1e3 * (trial.value or 0.0)) * power) for trial in as_scored]
    if len({trial.value for trial in harder}) == len(set(values)):  # no two run together by rounding
        assert [t.number for t in transfer.ranked(as_scored)] == [t.number for t in transfer.ranked(harder)]


# Translation


@pytest.mark.parametrize(
    ("given_params", "held"),
    [
        (WHOLE, WHOLE),
        ({"learning_rate": 0.5, "weight.chat": -1.0}, {"learning_rate": 1e-1, "weight.chat": 0.0}),
        ({"learning_rate": 1e-2, "warmup": 0.1, "weight.other": 1.0}, {"learning_rate": 1e-2}),
        ({"rank": 16, "batch_size": 4.0}, {"batch_size": 4}),
        ({"learning_rate": "fast", "weight.chat": True}, {}),
        ({"dpo_share": 0.0, "dpo_beta": 0.1}, {"dpo_share": 0.0}),
        ({"dpo_share": 0.25, "dpo_beta": 9.0}, {"dpo_share": 0.25, "dpo_beta": 0.5}),
        ({"dpo_share": 0.5, "dpo_beta": 0.1}, {"dpo_beta": 0.1}),  # the sampler may choose a share above 0
    ],
)
def test_a_recipe_becomes_what_the_new_space_can_hold(
    given_params: dict[str, Any], held: dict[str, Any], tiny_config: StudyConfig
) -> None:
    assert transfer.translated(given_params, tiny_config) == held


def test_numbers_move_onto_the_grid_of_a_range(tmp_path: Path) -> None:
    stepped = load(
        tmp_path,
        learning_rate="learning_rate = { low = 0.002, high = 0.010, step = 0.004 }",
        rank="rank = { low = 4, high = 16, step = 4 }",
    )
    found = transfer.translated({"learning_rate": 0.0064, "rank": 11}, stepped)
    assert found == {"learning_rate": pytest.approx(0.006), "rank": 12}
    assert isinstance(found["rank"], int)
    assert all(stepped.space[name].contains(value) for name, value in found.items())


def any_params() -> st.SearchStrategy[dict[str, Any]]:
    numbers = st.floats(-10, 100, allow_nan=False) | st.integers(-5, 300)
    return st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(("learning_rate", "weight.chat", "dpo_beta", "batch_size"), numbers),
            "rank": st.sampled_from([2, 4, 8, 16]),
            "dpo_share": st.sampled_from([0.0, 0.25, 0.5]),
            "schedule": st.sampled_from(["cosine", "linear"]),
        },
    )


@settings(max_examples=40)
@given(st.lists(any_params(), max_size=20))
def test_what_is_chosen_lies_in_the_space_and_apart(tiny_config: StudyConfig, found: list[dict[str, Any]]) -> None:
    best_first = [Taken(number, params) for number, params in enumerate(found)]
    chosen = transfer.chosen(best_first, tiny_config)
    assert len(chosen) <= transfer.TAKEN
    assert [taken.trial for taken in chosen] == sorted({taken.trial for taken in chosen})
    assert all(tiny_config.space[name].contains(value) for taken in chosen for name, value in taken.params.items())
    assert not any(taken.params == prior.params for taken in chosen for prior in tiny_config.prior)
    points = Points(tiny_config.space, tiny_config.recipe)
    at = [points.coordinates(points.places(taken.params)[None])[0] for taken in chosen]
    nearest = transfer.NEAR * math.sqrt(len(tiny_config.space))
    assert all(math.dist(one, other) >= nearest for one, other in itertools.combinations(at, 2))
    assert transfer.chosen(chosen, tiny_config) == chosen  # what is kept may be fitted again


def test_of_recipes_that_are_near_each_other_the_best_is_taken_and_priors_are_left_out(
    tiny_config: StudyConfig,
) -> None:
    other = {**WHOLE, "learning_rate": 9e-2}
    best_first = [
        Taken(7, {**tiny_config.prior[0].params}),
        Taken(3, {**WHOLE, "schedule": "cosine"}),
        Taken(4, {**WHOLE, "learning_rate": 1.1e-2}),
        Taken(9, other),
    ]
    assert transfer.chosen(best_first, tiny_config) == (Taken(3, WHOLE), Taken(9, other))


# With two real studies


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the studies `old` and `third`, and the file of `new`, which has not been started."""
    folder = tmp_path_factory.mktemp("home")
    file = made_study.write_study_file(folder / "new", name="new")
    distributions = space.optuna_distributions(config.load(file))
    scored = [
        (WHOLE, 0.3),
        ({**WHOLE, "rank": 8}, 0.6),
        ({**WHOLE, "rank": 8, "learning_rate": 1.1e-2}, 0.5),
        ({**WHOLE, "rank": 2, "dpo_share": 0.25, "dpo_beta": 0.3}, 0.4),
    ]
    _ended(folder / "studies" / "old", scored, distributions)
    _ended(folder / "studies" / "third", [({**WHOLE, "learning_rate": 2e-3}, 0.1)], distributions)
    return folder


def _ended(folder: Path, scored: list[tuple[dict[str, Any], float]], distributions: dict[str, Any]) -> None:
    """A study with these recipes and their values."""
    folder.mkdir(parents=True)
    (folder / "study.toml").write_text("")
    storage = trials.open_storage(folder / "study.db")
    study = optuna.create_study(storage=storage, study_name=folder.name, direction="maximize")
    for params, value in scored:
        known = {name: distributions[name] for name in params}
        study.add_trial(optuna.create_trial(params=params, distributions=known, value=value))
    storage.engine.dispose()


@pytest.fixture
def home(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the working folder."""
    copied = shutil.copytree(place, tmp_path / "home")
    monkeypatch.chdir(copied)
    monkeypatch.delenv("NIGHTSHIFT_HOME", raising=False)
    return copied


def opened(home: Path, source: str | None, begin: int = 0) -> list[records.TrialRecord]:
    """The trials of `new` once a night has opened it, with --from where `source` names a study; `begin` of them
    are begun and ended."""
    folder, read = home / "studies" / "new", config.load(home / "new" / "study.toml")
    given_now = transfer.read(transfer.find(source), folder, read) if source else None
    folder.mkdir(exist_ok=True)
    storage = trials.open_storage(folder / "study.db")
    try:
        taken = transfer.settled(folder, given_now, read)
        study = Study.open(storage, read, survey.survey(read), earlier=taken.priors if taken else None)
        for _ in range(begin):
            study.prune(study.next_trial())
        return study.records()
    finally:
        storage.engine.dispose()


def names(found: list[records.TrialRecord]) -> list[str]:
    return [trial.user_attrs["prior"] for trial in found]


def test_the_best_of_the_other_study_are_queued_once_behind_the_priors(home: Path) -> None:
    before = (home / "studies" / "old" / "study.db").read_bytes()
    found = opened(home, "old")
    assert names(found)[0] == "middle"
    assert [(trial.user_attrs["prior"], trial.params["rank"]) for trial in found[1:]] == [
        ("from old #1", 8),  # and not #2, which is near it
        ("from old #3", 2),
        ("from old #0", 4),
    ]
    assert opened(home, "old") == found
    assert opened(home, None, begin=2)[2:] == found[2:]  # the next night, which need not say it again
    assert names(opened(home, "studies/old")) == names(found)
    assert (home / "studies" / "old" / "study.db").read_bytes() == before


def test_the_winner_of_the_other_study_s_final_race_comes_first(home: Path) -> None:
    old = home / "studies" / "old"
    race = run([Finalist(3, Measure.of([True]), (True, False))], (2,), 2)
    finals_record.keep(old, race, records.read(old / "study.db").trials)
    assert names(opened(home, "old"))[1:] == ["from old #3", "from old #1", "from old #0"]


@pytest.mark.parametrize("queued", [0, 1, 3])
def test_a_kill_at_any_instant_neither_doubles_nor_loses_a_recipe(
    home: Path, queued: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = optuna.Study.enqueue_trial, itertools.count()

    def until_the_power_goes(*arguments: Any, **options: Any) -> None:
        if next(calls) == queued:
            raise KeyboardInterrupt
        real(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(optuna.Study, "enqueue_trial", until_the_power_goes)
        with pytest.raises(KeyboardInterrupt):
            opened(home, "old")
    found = names(opened(home, None))
    kept = transfer.settled(home / "studies" / "new", None, config.load(home / "new" / "study.toml"))
    assert kept
    assert found == ["middle", *kept.priors]


def test_until_a_trial_begins_another_study_takes_the_place_of_the_first(home: Path) -> None:
    first = names(opened(home, "old"))
    assert names(opened(home, "third")) == ["middle", "from third #0"]
    assert names(opened(home, "old", begin=1)) == first


def test_what_was_taken_is_fitted_to_a_space_that_changes_before_the_first_trial(home: Path) -> None:
    opened(home, "old")
    file = home / "new" / "study.toml"
    file.write_text(file.read_text().replace("low = 1e-3, high = 1e-1", "low = 9e-3, high = 11e-3"))
    found = opened(home, None)
    assert len(found) > 1
    assert all(9e-3 <= trial.params["learning_rate"] <= 11e-3 for trial in found[1:])  # type: ignore[operator]


def test_once_trials_have_begun_it_cannot_change(home: Path) -> None:
    opened(home, "old", begin=1)
    with pytest.raises(StudyChanged, match=r"--from third: the trials of 'new' began from old, .* start .*study\.toml"):
        opened(home, "third")
    (home / "studies" / "new" / transfer.FILE).unlink()
    with pytest.raises(StudyChanged, match=r"the trials of 'new' began without --from"):
        opened(home, "old")


# Refusals


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nothing", "nothing: there is no study of this name in studies"),
        ("studies/new", "--from studies/new: this is the study itself"),
        ("new/unstarted.toml", "--from studies/unstarted: this study has never been started"),
        ("empty", "--from studies/empty: no trial of this study has been scored or has reached a rung"),
        ("third", r"--from studies/third: it has no value for anything searched here \(warmup\)"),
    ],
)
def test_what_cannot_be_taken_from_is_refused_in_one_line(home: Path, source: str, said: str) -> None:
    opened(home, None)
    shutil.copytree(home / "studies" / "new", home / "studies" / "empty")
    (home / "studies" / "empty" / "study.toml").touch()
    text = (home / "new" / "study.toml").read_text()
    (home / "new" / "unstarted.toml").write_text(text.replace('name = "new"', 'name = "unstarted"'))
    if source == "third":
        text = (home / "new" / "study.toml").read_text()
        start, end = text.index("[space]"), text.index("[pruner]")
        (home / "new" / "study.toml").write_text(
            f"{text[:start]}[space]\nwarmup = {{ low = 0.0, high = 0.1 }}\n\n{text[end:]}"
        )
    before = sorted((home / "studies" / "new").rglob("*"))
    with pytest.raises(SearchError, match=said):
        opened(home, source)
    if source != "nothing":
        with pytest.raises(SearchError, match=r"nightshift start .*study\.toml$"):
            opened(home, source)
    assert sorted((home / "studies" / "new").rglob("*")) == before


def test_the_command_says_so_and_exits_with_2(home: Path) -> None:
    answer = CliRunner().invoke(app, ["start", "new/study.toml", "--from", "new/study.toml"], prog_name="nightshift")
    assert answer.exit_code == 2
    assert "error: --from studies/new: this is the study itself" in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1


def test_it_says_which_trials_it_took() -> None:
    assert str(Earlier("/x/old", (Taken(3, WHOLE), Taken(1, WHOLE)))) == (
        "from old, these trials come after the priors: #3, #1"
    )
