"""`nightshift compare`: what `score` wrote, runs and final runs against each other, and what cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from objectives.score import Score, Verdict
from search import freeze
from search.cli import app
from search.score_settings import text_digest
from train.rundir import RunDir, write_json

SETTINGS = {
    "chat_template": "{{ messages }}",
    "max_new_tokens": 512,
    "batch_size": 16,
    "device": "cpu",
    "weights": "nf4",
    "versions": {"torch": "2"},
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")


def nightshift(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="nightshift")


def score(followed: str, first: int = 0, decided: bool = False) -> Score:
    """One letter a prompt: y followed, n not; keys from `first` on."""
    verdicts = [
        Verdict(
            key=key,
            instruction_id_list=("punctuation:no_comma" if key % 2 else "startend:quotation",),
            strict=(letter == "y",),
            loose=(None if decided else letter == "y",),
            tokens=9,
            capped=False,
            decided=decided,
        )
        for key, letter in enumerate(followed, start=first)
    ]
    return Score.of(verdicts, looped=0, empty=0, prompts_sha256=f"{first} {len(followed)}", exact=True, seconds=1.0)


def prompt(key: int) -> str:
    return f"Say [bold]{key}[/bold] :cat:"


def write(folder: Path, made: Score, samples: bool = False, **settings: Any) -> Path:
    """A folder as `nightshift score` writes it."""
    folder.mkdir(parents=True)
    keys = [verdict.key for verdict in made.verdicts]
    record = {
        "model": folder.name,
        "base": "model",
        "adapter": None,
        "prompts": "prompts.jsonl",
        "fallback": None,
        "asked": {},
        "texts": {str(key): text_digest(prompt(key)) for key in keys},
        "settings": {**SETTINGS, **settings},
        "scores": {"search": made.model_dump(mode="json")},
    }
    write_json(folder / "score.json", record)
    if samples:
        write_samples(folder, keys)
    return folder


def write_samples(folder: Path, keys: list[int]) -> None:
    lines = [{"key": key, "prompt": prompt(key), "response": f"{folder.name} says [{key}]" * 200} for key in keys]
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_two_scores_side_by_side_with_the_answers_that_differ(tmp_path: Path) -> None:
    write(tmp_path / "one", score("yyyynnnnnnnn"), samples=True)
    write(tmp_path / "two", score("nyyyyyyyyynn"), samples=True, max_new_tokens=1280, versions={"torch": "3"})
    answer = nightshift("compare", "one", "two/score.json", "--show", 2)
    assert answer.exit_code == 0, answer.stderr
    words = " ".join(answer.stdout.split())
    for said in (
        "compared on the 12 prompts that both answered",
        "warning: max new tokens differs: 512 for A, 1280 for B",
        "warning: versions differ: torch 2 and 3",
        "prompts, strict 0.333 ± 0.136 0.750 ± 0.125 +0.417",
        "6 gained, 1 lost, 3 followed by both, 2 by neither; p = 0.125",
        "punctuation:no_comma 6 2 5 +3",
        "gained by B: 4, 5, 6, 7, 8, 9 lost by B: 0",
        "prompt 4, gained by B Say [bold]4[/bold] :cat: A: one says [4]",
        "prompt 0, lost by B",
        "characters more)",
    ):
        assert said in words, said


def test_a_model_against_itself(tmp_path: Path) -> None:
    one = write(tmp_path / "one", score("ynyn"))
    answer = nightshift("compare", one, one)
    assert "p = 1: these prompts do not tell the two apart" in answer.stdout
    assert "gained by B: none" in answer.stdout
    assert (
        "no answers to show" in nightshift("compare", one, write(tmp_path / "two", score("yyyn")), "--show", 1).stdout
    )


def test_json_has_everything_and_turning_it_round_mirrors_it(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one", score("yyyyyyyynnnnnnnn")), write(tmp_path / "two", score("nnnnnnnnnnnnnnny"))
    there, back = (json.loads(nightshift("compare", *pair, "--json").stdout) for pair in ((one, two), (two, one)))
    assert (there["n"], there["a"]["prompts"], there["b"]["name"]) == (16, 16, str(two))
    strict, mirrored = there["metrics"]["prompt_strict"], back["metrics"]["prompt_strict"]
    assert (strict["difference"], strict["low"]) == (-mirrored["difference"], -mirrored["high"])
    assert (there["gained"], there["p"]) == (back["lost"], back["p"])
    assert "McNemar" in there["method"]


def test_only_common_prompts_count_and_that_is_said(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one", score("yyyy")), write(tmp_path / "two", score("yyyyyy", first=2))
    answer = nightshift("compare", one, two)
    assert "on the 2 prompts that both answered; left out: 2 that A alone was asked, 4 that B alone" in answer.stdout


def test_trials_and_final_runs_are_found_by_their_folders(tmp_path: Path) -> None:
    trial, other, untuned = (RunDir(tmp_path / "study" / "runs" / name) for name in ("003", "004", "base"))
    for run, followed in ((trial, "yyny"), (other, "nyny"), (untuned, "nnnn")):
        run.path.mkdir(parents=True)
        made = score(followed, decided=run is other).model_dump(mode="json")
        write_json(run.result, {"outcome": "completed", "score": made})
    assert "0 gained, 3 lost" in nightshift("compare", trial.path, untuned.path).stdout
    answer = nightshift("compare", trial.path, other.path)
    assert answer.exit_code == 0, answer.stderr
    assert "some answers were ended once their strict verdict was decided" in answer.stdout
    assert "prompts, loose" not in answer.stdout
    assert "was ended by the race" not in answer.stdout
    behind = {"outcome": "completed", "score": made, "race": {"asked": 4, "of": 8, "behind": 3}}
    write_json(other.result, behind)
    assert f"warning: {other.path} was ended by the race" in nightshift("compare", trial.path, other.path).stdout
    final = RunDir(tmp_path / "study" / "final")
    final.path.mkdir()
    scores = {part: score("yyyy").model_dump(mode="json") for part in ("search", "sealed", "all")}
    write_json(final.result, {"outcome": "completed", "scores": scores})
    assert "1 gained, 0 lost" in nightshift("compare", trial.path, final.path).stdout
    write(trial.path / "scores", score("nnnn"))  # what `score` made of it comes first
    assert "4 gained, 0 lost" in nightshift("compare", trial.path, final.path).stdout


def test_other_lengths_and_batches_of_a_run_and_a_final_run_are_warned_of(tmp_path: Path) -> None:
    run, final = RunDir(tmp_path / "runs" / "003"), RunDir(tmp_path / "final")
    made = score("yyny").model_dump(mode="json")
    for one in (run, final):
        one.path.mkdir(parents=True)
        write_json(one.result, {"outcome": "completed", "score": made})
    write_json(run.job, {"objective": {"max_new_tokens": 512, "batch_size": 64}})
    (tmp_path / "final_run.py").write_text(freeze.render({"objective": {"max_new_tokens": 1280, "batch_size": 16}}))
    words = " ".join(nightshift("compare", run.path, final.path).stdout.split())
    assert "warning: max new tokens differs: 512 for A, 1280 for B" in words
    assert "warning: batch size differs: 64 for A, 16 for B" in words


def test_of_many_keys_the_first_are_shown(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one", score("n" * 100)), write(tmp_path / "two", score("y" * 100))
    words = " ".join(nightshift("compare", one, two).stdout.split())
    assert "gained by B: 0, 1, 2" in words
    assert "18, 19 and 80 more, which --json names" in words
    assert "0.000, ≤ 0.037 1.000, ≥ 0.963" in words


def test_what_cannot_be_compared_is_told(tmp_path: Path) -> None:
    one = write(tmp_path / "one", score("yyyy"))
    two = write(tmp_path / "two", score("yyyy"))
    record = json.loads((two / "score.json").read_text())
    record["texts"] |= {"1": "0", "2": "0"}
    write_json(two / "score.json", record)
    far = write(tmp_path / "far", score("yyyy", first=9))
    mute = RunDir(tmp_path / "mute")
    mute.path.mkdir()
    write_json(mute.result, {"outcome": "completed", "score": score("yyyyy").model_dump(mode="json")})
    failed, old, fresh = (RunDir(tmp_path / name) for name in ("failed", "old", "fresh"))
    for run, result in ((failed, {"outcome": "failed", "score": None}), (old, {"score": {"n": 1}})):
        run.path.mkdir()
        write_json(run.result, result)
    fresh.path.mkdir()
    fresh.recipe_path.write_text("{}")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.toml").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn.json").write_text("{")
    for argument, said in [
        (two, "2 of the 4 prompts that both were asked have another text in one than in"),
        (far, "no prompt is common to the two: 4 and 4 were asked"),
        (mute.path, "does not say which texts its prompts had (there is no samples.jsonl)"),
        (failed.path, "this run was never scored (it is failed)"),
        (old.path, "holds a score that this version of Nightshift does not read; make one: nightshift score"),
        (fresh.path, "this run has no score yet; make one: nightshift score"),
        (tmp_path / "study", "this is a study; it has no model yet: nightshift start"),
        (tmp_path / "empty", "there is no score.json here; make one: nightshift score MODEL --out"),
        (tmp_path / "torn.json", "torn.json is no score that `nightshift score` wrote"),
        (tmp_path / "gone", "there is no such file or folder"),
    ]:
        answer = nightshift("compare", one.name, argument)
        assert (answer.exit_code, answer.stdout) == (2, ""), answer.output
        assert said in " ".join(answer.stderr.split()), answer.stderr
        assert "Traceback" not in answer.stderr
