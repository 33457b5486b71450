"""The sampler in Optuna's studies: what it suggests follows from the trials that ended, and from nothing else."""

from __future__ import annotations

from typing import Any

import made_study
import optuna
import pytest

from search import config, space
from search.config import StudyConfig
from search.policy import Fits
from search.study import OpenTrial, Study


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    """The rehearsal's space, in a study file of its own."""
    return config.load(made_study.write_study_file(tmp_path_factory.mktemp("sampler")))


def opened(studied: StudyConfig) -> Study:
    """A study in memory, without hand-picked recipes."""
    return Study(optuna.create_study(direction="maximize"), studied)


def score(trial: OpenTrial) -> float:
    """Best at the highest learning rate."""
    return 0.95 * (float(trial.params["learning_rate"]) / 0.1) ** 0.5


def work(study: Study, trials: int, fits: Fits = lambda _: True) -> list[dict[str, object]]:
    """So many trials, every fourth of them stopped at a rung and every fifth failed; their parameters."""
    done = []
    for _ in range(trials):
        trial = study.next_trial(fits)
        study.report(trial, 0.25, 2.0 - score(trial))
        if trial.number % 4 == 3:
            study.prune(trial)
        elif trial.number % 5 == 4:
            study.fail(trial, "its loss is not finite")
        else:
            study.complete(trial, score(trial))
        done.append(dict(trial.params))
    return done


def test_a_study_that_was_killed_in_every_trial_suggests_what_another_does(studied: StudyConfig) -> None:
    whole, killed = opened(studied), opened(studied)
    expected = work(whole, 8)
    found = []
    for _ in range(8):
        before = killed.next_trial()  # a service that died here
        after = Study(killed.optuna, studied)
        assert after.next_trial().number == before.number
        found += work(after, 1)
    assert found == expected


class PowerCut(BaseException):
    """The service ends here."""


@pytest.mark.parametrize("written", [0, 1, 4])
def test_killed_while_a_recipe_is_written_down_it_is_the_same_recipe_afterwards(
    studied: StudyConfig, written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = opened(studied), opened(studied)
    assert work(whole, 7) == work(killed, 7)
    expected = whole.next_trial().params
    write, storage, count = killed.optuna._storage.set_trial_param, killed.optuna._storage, 0

    def cut(*arguments: Any, **values: Any) -> None:
        nonlocal count
        count += 1
        if count > written:
            raise PowerCut
        write(*arguments, **values)

    monkeypatch.setattr(storage, "set_trial_param", cut)
    with pytest.raises(PowerCut):
        killed.next_trial()
    monkeypatch.undo()
    again = Study(killed.optuna, studied).next_trial(lambda params: params["rank"] == 2)  # less fits by now
    assert (again.number, again.params) == (7, expected)


def test_it_finds_the_better_recipes(studied: StudyConfig) -> None:
    highest = studied.space["learning_rate"].ends[-1]
    rates = [float(str(params["learning_rate"])) for params in work(opened(studied), 14)]
    assert sum(rates[7:]) / 7 > 0.7 * float(highest)


def test_every_recipe_is_of_the_space_and_none_comes_twice(studied: StudyConfig) -> None:
    study = opened(studied)
    done = work(study, 12)
    assert all(done.count(params) == 1 for params in done)
    for record in study.optuna.get_trials():
        assert record.distributions.items() <= space.optuna_distributions(studied).items()
        assert ("dpo_beta" in record.params) == (record.params["dpo_share"] > 0)


def test_what_does_not_fit_is_not_suggested(studied: StudyConfig) -> None:
    done = work(opened(studied), 8, lambda params: params["rank"] == 2)
    assert {params["rank"] for params in done} == {2}


def test_a_hand_picked_recipe_keeps_what_it_names_and_is_completed(studied: StudyConfig) -> None:
    study = opened(studied)
    work(study, 5)
    study.optuna.enqueue_trial({"rank": 4, "dpo_share": 0.25}, user_attrs={"prior": "half"})
    trial = study.next_trial()
    assert (trial.prior, trial.params["rank"], trial.params["dpo_share"]) == ("half", 4, 0.25)
    assert set(trial.params) == set(studied.space)
