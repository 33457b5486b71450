"""`nightshift latency`: base and tuned by turns on one load, two models against each other, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny
import tiny_scored
from rich.console import Console
from typer.testing import CliRunner

from objectives.score import ObjectiveError
from search import latency_view, score_job, score_model, score_settings, scoring
from search.cli import app
from search.score_model import ScoredModel
from train.rundir import Json


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("timed")
    tiny_scored.write_run(place)
    return place


def measured(models: list[ScoredModel], result: Path, quantize: bool = True, **job: object) -> tuple[Json, list[Json]]:
    """The figures, and the events on the way; few runs and tokens, unless `job` says otherwise."""
    machine = score_settings.Machine("cpu", "cpu", 1, quantize)
    asked = score_job.latency_job(models, machine, 2, result)
    events: list[Json] = []
    scoring.latency({**asked, "new_tokens": 8, "warmups": 1, **score_job.known(machine), **job}, events.append)
    return json.loads(result.read_text()), events


def shown(figures: Json) -> str:
    console = Console(width=160)
    with console.capture() as captured:
        console.print(latency_view.render(figures))
    return " ".join(captured.get().split())


def test_an_adapter_is_measured_beside_its_base_on_one_load(made: Path, tmp_path: Path) -> None:
    run = made / "studies" / "tiny" / "runs" / "003"
    figures, events = measured([score_model.find(str(run))], tmp_path / "figures.json", lengths=[8, 32, 1024])
    base, tuned = figures["arms"]
    assert (base["name"], tuned["name"]) == (str(made / "model"), str(run))
    assert [event["event"] for event in events] == ["load"] + ["run"] * 2 * 2 * 3  # lengths, arms, runs and a warm-up
    assert events[-1] == {"event": "run", "done": 12, "of": 12}
    for arm in (base, tuned):
        assert [one["prompt_tokens"] for one in arm["latency"]] == [8, 32]
        assert {(one["runs"], one["new_tokens"]) for one in arm["latency"]} == {(2, 8)}
    assert (figures["left_out"], figures["longest_prompt"]) == ([1024], 248)
    trained = tuned["size"]["trainable_parameters"]
    assert trained > 0
    assert base["size"]["trainable_parameters"] == base["size"]["adapter_bytes"] == 0
    assert tuned["size"]["total_parameters"] - base["size"]["total_parameters"] == trained
    assert tuned["size"]["loaded_bytes"] - base["size"]["loaded_bytes"] == 4 * trained
    assert tuned["size"]["adapter_bytes"] == sum(f.stat().st_size for f in (run / "adapter").iterdir())
    weights = (made / "model" / "model.safetensors").stat().st_size
    assert base["size"]["base_bytes"] == tuned["size"]["base_bytes"] == weights
    text = shown(figures)
    for said in (
        f"A: {made / 'model'} B: {run} measured by turns",
        "1 thread; weights in NF4; torch 2",
        "left out: prompts of 1024 tokens; the model's",
        "2 runs after 3 unmeasured, 8 new tokens each, past any end token",
        "so few runs hardly tell the 95th percentile from the slowest",
        f"of them the adapter's 0 {trained:,}",
        "the adapter's folder 0 bytes",
    ):
        assert said in text


def test_every_figure_fits_into_a_narrow_terminal() -> None:
    spread, large = {"p50": 0.01234, "p95": 0.5}, {"p50": 12345.6, "p95": 1.5}
    times = [
        {"prompt_tokens": n, "new_tokens": 128, "runs": 30, "peak_memory_bytes": 9 * 2**40}
        | {"first_token_s": large, "per_token_s": spread, "tokens_per_s": large}
        for n in (32, 1024)
    ]
    size = {"total_parameters": 8_030_261_248, "trainable_parameters": 5, "base_bytes": 15 * 2**30}
    arm = {"latency": times, "size": {**size, "adapter_bytes": 0, "loaded_bytes": 5 * 2**20}}
    versions = {"torch": "2", "transformers": "5", "bitsandbytes": "0"}
    arms = [{"name": f"a/very/long/path/{'x' * 80}", **arm}] * 2
    facts = {"device": "NVIDIA", "weights": "nf4", "versions": versions, "threads": 1, "warmups": 3}
    console = Console(width=80)
    with console.capture() as captured:
        console.print(latency_view.render({**facts, "arms": arms, "left_out": [], "longest_prompt": None}))
    lines = captured.get().splitlines()
    assert not any("…" in line for line in lines)
    assert any("12,345,600 / 1,500" in line and "12.3 / 500" in line for line in lines)
    assert any(line.split() == ["weight", "files", "15.0", "GiB", "15.0", "GiB"] for line in lines)


def test_two_models_are_measured_against_each_other(made: Path, tmp_path: Path) -> None:
    tiny.write_model(tmp_path / "other", seed=1)
    models = [score_model.find(str(folder)) for folder in (made / "model", tmp_path / "other")]
    figures, events = measured(models, tmp_path / "figures.json", quantize=False, lengths=[8])
    assert [event["model"] for event in events if event["event"] == "load"] == [model.name for model in models]
    sizes = [arm["size"] for arm in figures["arms"]]
    assert sizes[0] == sizes[1]
    assert sizes[0]["loaded_bytes"] >= 4 * sizes[0]["total_parameters"]  # in full precision
    assert figures["weights"] == "full"


def test_what_is_loaded_once_and_what_twice(made: Path, tmp_path: Path) -> None:
    run, base = (score_model.find(str(made / name)) for name in ("studies/tiny/runs/003", "model"))
    assert [arm["name"] for arm in score_job.arms_of([base])[1]] == [base.name]
    loads, arms = score_job.arms_of([base, run])
    assert loads == [run]
    assert arms == [
        {"name": base.name, "load": 0, "tuned": False},
        {"name": run.name, "load": 0, "tuned": True},
    ]
    assert score_job.arms_of([run, run])[0] == [run, run]


def test_no_room_for_any_prompt_is_told(made: Path, tmp_path: Path) -> None:
    with pytest.raises(ObjectiveError, match="no prompt of 300 tokens and 8 new ones fits into the model's positions"):
        measured([score_model.find(str(made / "model"))], tmp_path / "figures.json", lengths=[300, 500])


def test_mistakes_are_told_before_anything_is_loaded(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))  # where there is no nvidia-smi
    shutil.copytree(made / "model", tmp_path / "torn")
    weights = tmp_path / "torn" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    for arguments, said in [
        (["nowhere"], "nowhere: there is no such folder"),
        (["torn"], "model.safetensors is cut off"),
        ([made / "model", "--revision", "abc"], "--revision abc is for a model on the hub, and"),
        ([made / "model", "--against", "torn"], "model.safetensors is cut off"),
        ([made / "model", "--device", "cuda"], "--device cuda: there is no NVIDIA card here"),
        ([made / "model", "--runs", "0"], "greater than or equal to 1"),
    ]:
        answer = CliRunner().invoke(app, ["latency", *map(str, arguments)], prog_name="nightshift")
        assert (answer.exit_code, answer.stdout) == (2, ""), answer.output
        assert said in " ".join(answer.stderr.replace("│", " ").split())
