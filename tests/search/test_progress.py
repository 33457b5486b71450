"""A study as text: no line wider than the terminal, the best always in sight, every change told once."""

from __future__ import annotations

import dataclasses
import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from objectives.score import Measure
from search.finals import Race, Runner, Turn
from search.finals_record import Pick
from search.forecast import Count, Final, Forecast
from search.progress import ROWS, activity, duration, figure, render
from search.progress_lines import changes
from search.view import Activity, StudyView, TrialView

PARAMS: dict[str, Any] = {
    "learning_rate": 0.0123,
    "rank": 16,
    "targets": "all-linear",
    "batch_size": 8,
    "weight.noisy": 0.25,
    "schedule": "cosine",
}


def measure(value: float) -> Measure:
    return Measure(value=value, standard_error=0.056, n=64)


def trial(number: int, state: str = "complete", value: float = 0.5, **changed: Any) -> TrialView:
    rungs = {0.25: 2.5, 0.5: 2.25, 1.0: 2.125} if state == "complete" else {0.25: 3.5}
    score = measure(value) if state == "complete" else None
    made = TrialView(number, state, dict(PARAMS), rungs, score, 21.4, 1)
    return dataclasses.replace(made, **changed)


def study(*trials: TrialView, **changed: Any) -> StudyView:
    made = StudyView(
        name="night",
        folder=Path("studies/night"),
        trials=trials,
        trials_wanted=24,
        base=measure(0.031),
        spent_s=125.0,
        budget_s=3600.0,
        until="03:00",
        left_s=1000.0,
        activity=None,
        service_pid=4242,
        ending=None,
    )
    return dataclasses.replace(made, **{"pick": expected(trials), **changed})


def expected(trials: Sequence[TrialView]) -> Pick | None:
    """The one with the highest score."""
    scored = {each.score.value: each.number for each in reversed(trials) if each.score}
    return Pick(scored[max(scored)], "expected") if scored else None


def shown(view: StudyView, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(render(view))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_before_the_first_trial_there_is_a_header_alone() -> None:
    text = shown(study(base=None, left_s=None, activity=Activity(None, "score", 0, 0, None)))
    assert "0 of 24 trials" in text
    assert "no trial has a score yet" in text
    assert "now: base model, answering the prompts" in text
    assert "state" not in text


def test_the_header_says_what_is_spent_what_is_best_and_what_goes_on() -> None:
    now = Activity(2, "train", 42, 100, 1.23456)
    text = shown(study(trial(0), trial(1, value=0.75, prior="plain"), trial(2, "running"), activity=now))
    assert "2 of 24 trials   running as process 4242, until 03:00" in text
    assert "2m 05s of 1h 00m GPU time, about 16m 40s to go" in text
    assert "base model 0.031 ± 0.056   best 0.750 ± 0.056 (trial 1, plain)" in text
    assert "now: trial 2, training, step 42 of 100, loss 1.235" in text


def test_a_higher_score_that_is_probably_luck_is_named_and_a_score_alone_is_called_one() -> None:
    trials = trial(0, value=0.7), trial(1, value=0.75)
    seen_through = study(*trials, pick=Pick(0, "expected", luckier=1))
    assert "best 0.700 ± 0.056 (trial 0; trial 1's 0.750 is probably luck)" in shown(seen_through)
    assert "*0 complete" in " ".join(shown(seen_through).split())
    assert "highest score 0.750 ± 0.056 (trial 1)" in shown(study(*trials, pick=Pick(1, "score")))


def test_a_study_that_rests_says_why_it_ended() -> None:
    text = shown(study(trial(0), service_pid=None, ending="the deadline is reached"))
    assert "not running" in text
    assert "ended: the deadline is reached" in text
    assert "to go" not in text


def test_a_row_holds_parameters_rungs_score_and_seconds() -> None:
    lines = shown(study(trial(0), trial(1, "pruned"))).splitlines()
    head = next(line for line in lines if line.lstrip().startswith("#"))
    assert " ".join(head.split()) == "# state lr rank targets batch schedule noisy bpb ¼ ½ 1 score GPU"
    rows = lines[lines.index(head) + 1 :]
    assert " ".join(rows[0].split()) == "*0 complete 0.012 16 all 8 cosine 0.25 2.500 2.250 2.125 0.500 ± 0.056 21s"
    assert " ".join(rows[1].split()) == "1 pruned 0.012 16 all 8 cosine 0.25 3.500 21s"


def test_a_trial_that_was_ended_as_behind_shows_its_estimate_and_is_never_the_best() -> None:
    behind = trial(1, score=None, asked=24, followed=9, behind=0, reason="behind trial 0 after 24 of 64 prompts")
    view = study(trial(0, value=0.4), dataclasses.replace(behind, value=0.412))
    (row,) = (line for line in shown(view, 160).splitlines() if line.split()[:2] == ["1", "complete"])
    assert "9 of 24 followed, behind 0, ≈ 0.41" in row
    assert "best 0.400 ± 0.056 (trial 0)" in shown(view)
    (line,) = changes(study(trial(0, value=0.4), trial(1, "running")), view)[-1:]
    assert line == "trial 1 complete, 9 of 24 followed, behind 0, ≈ 0.41; 2 of 24 trials, 2m 05s of 1h 00m GPU time"


def race(asked: int, winner: int | None = None, **out: str) -> Race:
    """Of trials 1 and 0."""
    runners = (Runner(1, measure(0.75), measure(0.7)), Runner(0, measure(0.7), measure(0.725), **out))
    return Race(runners, 80, asked, Turn(1, asked, asked + 20) if winner is None else None, winner)


def test_the_final_race_is_told_from_its_beginning_to_its_winner() -> None:
    trials = trial(0, value=0.7), trial(1, value=0.75)
    before, begun = study(*trials), study(*trials, race=race(0), activity=Activity(1, "score", 0, 0, None, race=True))
    assert changes(before, begun) == ["final race: the best 2 trials, 1, 0, race on up to 80 fresh prompts"]
    text = shown(begun)
    assert "best 0.750 ± 0.056 (trial 1)" in text
    assert "The final race of 2 is not over: 0 of 80 fresh prompts asked" in text
    assert "now: final race, trial 1, answering the prompts" in text
    assert changes(begun, dataclasses.replace(begun, race=race(20))) == []

    won = dataclasses.replace(begun, race=race(80, winner=0), pick=Pick(0, "race"), activity=None)
    assert changes(begun, won) == ["trial 0 won the final race of 2: 0.725 ± 0.056 on 64 fresh prompts"]
    assert "best 0.700 ± 0.056 (trial 0)" in shown(won)
    assert "Trial 0 won the final race of 2: 0.725 ± 0.056 on 64 fresh prompts" in shown(won)
    (line,) = (line for line in shown(won).splitlines() if line.startswith("*"))
    assert line.split()[0] == "*0"
    ended = dataclasses.replace(won, service_pid=None, ending=f"every trial is done; {race(80, winner=0).brief}")
    assert shown(ended).count("won the final race") == 1
    assert "ended: every trial is done\n" in shown(ended)
    assert changes(won, won) == []

    behind = dataclasses.replace(begun, race=race(40, winner=1, out="behind trial 1 after 40 prompts"))
    assert changes(begun, behind) == [
        "final race: trial 0 is out, behind trial 1 after 40 prompts",
        "trial 1 won the final race of 2: 0.700 ± 0.056 on 64 fresh prompts",
    ]


def test_the_best_stays_in_sight_when_it_is_old() -> None:
    text = shown(study(*(trial(n, value=0.9 if n == 1 else 0.3) for n in range(40))))
    rows = [line.split()[0] for line in text.splitlines() if " complete " in line]
    assert rows == ["*1", *(str(n) for n in range(40 - ROWS, 40))]
    assert "and 24 more in the report" in text


def test_reasons_are_printed_as_they_are() -> None:
    text = shown(
        study(trial(0, "failed", reason="loss is [red]NaN[/red] at step 3"), trial(1, "infeasible", reason="big"))
    )
    assert "trial 0 failed: loss is [red]NaN[/red] at step 3" in text
    assert "trial 1 infeasible: big" in text


WORDS = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=70)
STATES = st.sampled_from(["waiting", "running", "interrupted", "complete", "pruned", "infeasible", "failed"])


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(60, 160), name=WORDS, states=st.lists(STATES, max_size=25), rungs=st.integers(1, 9), word=WORDS
)
def test_nothing_is_wider_than_the_terminal(width: int, name: str, states: list[str], rungs: int, word: str) -> None:
    source = random.Random(width)
    params = {**PARAMS, "targets": word, f"weight.{word}": 1e-9}
    fractions = {(n + 1) / rungs: source.uniform(1, 20) for n in range(rungs)}
    trials = (
        trial(
            n, state, source.random(), params=params, rungs=fractions, reason=word, gpu_seconds=source.uniform(0, 1e5)
        )
        for n, state in enumerate(states)
    )
    for line in shown(study(*trials, name=name), width).splitlines():
        assert cell_len(line) <= width


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_keeps_its_most_telling_columns(width: int) -> None:
    text = shown(study(trial(0), trial(1, "interrupted")), width)
    assert all(word in text for word in ["lr", "rank", "bpb ¼", "score", "GPU"])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.4, "59s"), (59.6, "1m 00s"), (125, "2m 05s"), (3600, "1h 00m"), (93784, "26h 03m")],
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_figures_are_short() -> None:
    assert [figure(v) for v in (0.00031234, 2e-5, 1.0, 1600, "attention-qv", "cosine")] == [
        "0.00031",
        "2e-05",
        "1",
        "1600",
        "attn-qv",
        "cosine",
    ]
    assert activity(Activity(3, "load", 0, 100, None)) == "trial 3, loading the base model"
    training = Activity(3, "train", 40, 100, 1.5, left_s=190.0)
    assert activity(training) == "trial 3, training, step 40 of 100, loss 1.500, about 3m 10s of training to go"


def test_every_change_is_told_once() -> None:
    running = trial(0, "running", rungs={})
    views = [
        study(base=None),
        study(base=measure(0.031)),
        study(running),
        study(dataclasses.replace(running, rungs={0.25: 2.5})),
        study(dataclasses.replace(running, rungs={0.25: 2.5})),
        study(trial(0)),
        study(trial(0), trial(1, "running", rungs={}, params={"rank": 8})),
        study(trial(0), trial(1, "interrupted", rungs={})),
        study(trial(0), trial(1, "running", rungs={}, attempts=2), activity=Activity(1, "load", 0, 100, None)),
        study(trial(0), trial(1, "running", rungs={}, attempts=2), activity=Activity(1, "train", 40, 100, None, 40)),
        study(trial(0), trial(1, "running", rungs={}, attempts=2), activity=Activity(1, "train", 41, 100, 1.0, 40)),
        study(trial(0), trial(1, "failed", rungs={}, reason="NaN loss")),
    ]
    told = [changes(before, now) for before, now in zip([None, *views[:-1]], views, strict=True)]
    spent = "2m 05s of 1h 00m GPU time"
    assert told == [
        [f"night: 0 of 24 trials, {spent}"],
        ["base model: 0.031 ± 0.056"],
        [
            "trial 0 started: learning_rate 0.012, rank 16, targets all, batch_size 8, weight.noisy 0.25, "
            "schedule cosine"
        ],
        ["trial 0: 2.500 bits per byte at 25%"],
        [],
        [
            "trial 0: 2.250 bits per byte at 50%",
            "trial 0: 2.125 bits per byte at 100%",
            f"trial 0 complete, 0.500 ± 0.056, the best so far; 1 of 24 trials, {spent}",
        ],
        ["trial 1 started: rank 8"],
        ["trial 1 interrupted"],
        ["trial 1 goes on"],
        ["trial 1 goes on from step 40 of 100"],
        [],
        [f"trial 1 failed, NaN loss; 2 of 24 trials, {spent}"],
    ]


def test_what_to_expect_stands_below_the_budget_and_after_each_trial_that_ended() -> None:
    told = Forecast(Count(14, 2.2), True, Final(0.61, 0.03))
    line = "tonight fits 14 ± 2 more trials; the study will probably end at 0.61 ± 0.03"
    before, now = study(trial(0, "running")), study(trial(0), forecast=told)
    assert line in shown(now, width=80).splitlines()
    assert changes(before, now)[-1] == line
    assert line not in changes(study(trial(0), forecast=told), now)
