"""`nightshift plan`: what a study will cost, without its model, its data or a network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from search import home
from search.cli import app

BASES = ("meta-llama/Llama-3.1-8B", "mistralai/Mistral-7B-v0.3", "Qwen/Qwen2.5-7B")


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "180")
    monkeypatch.setenv("PATH", str(tmp_path))  # where there is no nvidia-smi
    monkeypatch.delenv("NIGHTSHIFT_HOME", raising=False)
    return str(home.write_preset("rtx-4070-ti", tmp_path))


def nightshift(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), prog_name="nightshift")


def test_the_tables_say_what_fits_and_what_does_not(study: str) -> None:
    answer = nightshift("plan", study)
    assert answer.exit_code == 0, answer.output
    assert "Qwen/Qwen2.5-7B: 7.62 B parameters in NF4, on an RTX 4070 Ti, 11.50 GiB" in answer.output
    assert "486 MiB are assumed; nothing was measured here" in answer.output
    for title in (
        "The recipes",
        "Corners of the space",
        "The largest that fits",
        "Trainable parameters, layer by layer",
    ):
        assert title in answer.output
    lines = {line.split()[0]: line for line in reversed(answer.output.splitlines()) if line.strip()}
    assert "GiB, the sum" in lines["peak"]
    assert "322,961,408" in lines["all"]


def test_json_has_every_number_for_each_base_model(study: str) -> None:
    options = [part for base in BASES for part in ("--base", base)]
    answer = nightshift("plan", study, "--memory", "12", "--json", *options)
    assert answer.exit_code == 0, answer.output
    plans = json.loads(answer.stdout)
    assert [each["base"] for each in plans] == list(BASES)
    for each in plans:
        peaks = [one["plan"]["peak_bytes"] for one in each["recipes"]]
        corners = [one["plan"]["peak_bytes"] for one in each["corners"]]
        assert peaks[0] == min(peaks + corners)
        assert peaks[-1] == max(peaks + corners)
        assert each["limit_bytes"] == 12 * 2**30
        for one in each["recipes"]:
            assert one["fits"] == (one["plan"]["peak_bytes"] <= each["limit_bytes"])
            assert sum(one["plan"]["memory"].values()) == one["plan"]["peak_bytes"]
        named = {one["name"]: one for one in each["recipes"]}
        assert named["qlora-paper"]["recipe"]["rank"] == 64
        assert named["qlora-paper"]["fits"]
        assert named["qlora-paper"]["largest"]["micro_batch_size"] >= 4


def test_a_folder_with_a_configuration_alone_can_be_planned(study: str, tmp_path: Path) -> None:
    config = {"model_type": "llama", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8}
    config |= {"num_attention_heads": 16, "vocab_size": 32000, "max_position_embeddings": 4096}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    answer = nightshift("plan", study, "--base", str(tmp_path / "model"))
    assert answer.exit_code == 0, answer.output
    assert "0.20 B parameters" in answer.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--memory", "6"], "The largest batch that fits: set micro_batch_size = 1 in [recipe], and max_length = "),
        (["--memory", "6.5"], "The largest batch that fits: set micro_batch_size = 2 in [recipe]"),
        (["--memory", "4"], "Not even one token fits: take a smaller base model, a lower rank, or a card with more"),
        (["--memory", "0"], "0.0 is no number of GiB above 0"),
        (["--card", "RTX 4070Ti"], "--card RTX 4070Ti: the speed of this card is not known"),
        (["--base", "./nowhere"], "the base model's folder ./nowhere does not exist"),
    ],
)
def test_what_cannot_be_planned_is_told_in_one_message(study: str, arguments: list[str], said: str) -> None:
    answer = nightshift("plan", study, *arguments)
    assert answer.exit_code == 2
    assert said in " ".join(answer.stderr.replace("│", " ").split())
    assert "Traceback" not in answer.output


def test_without_a_limit_and_without_a_card_it_asks_for_one(study: str) -> None:
    path = Path(study)
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line for line in lines if not line.startswith("memory_gib")), encoding="utf-8")
    answer = nightshift("plan", study)
    assert answer.exit_code == 2
    assert "say what to plan for, like --memory 12" in answer.stderr
    assert nightshift("plan", study, "--memory", "12").exit_code == 0


def test_a_study_on_the_processor_is_planned_without_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "180")
    study = home.write_preset("rehearsal", tmp_path)
    base = ["--base", "Qwen/Qwen2.5-0.5B"]
    answer = nightshift("plan", str(study), *base, "--json")
    assert answer.exit_code == 0, answer.output
    assert all(one["seconds"] is None and one["fits"] for one in json.loads(answer.stdout)[0]["recipes"])
    assert nightshift("plan", str(study), *base).exit_code == 0
