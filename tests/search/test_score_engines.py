"""`nightshift score --engine vllm`: a process with a stand-in for vLLM that gives a real tiny model's answers."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import tiny_scored
from typer.testing import CliRunner

from objectives.score import ObjectiveError
from search import score_engine, score_file, score_job, score_model, score_settings, score_view, scoring
from search.cli import app
from search.errors import SearchError
from search.score_engine import Engine
from search.score_settings import Machine
from train.rundir import Json

ENGINE = "vllm 9.9"
NEW_TOKENS = 12


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study with a tuned run, and a python in whose environment the stand-in is vllm."""
    place = tmp_path_factory.mktemp("engines")
    tiny_scored.write_run(place)
    package = place / "site" / "vllm"
    (package / "lora").mkdir(parents=True)
    source = Path(__file__).parents[1] / "stand_in_vllm.py"
    (package / "__init__.py").write_text(source.read_text(encoding="utf-8"))
    (package / "lora" / "__init__.py").write_text("")
    (package / "lora" / "request.py").write_text("from vllm import LoRARequest\n")
    facts = place / "site" / "vllm-9.9.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 9.9\n")
    (place / "answers.json").write_text(json.dumps(answered(place)))
    python(place / "python", f"PYTHONPATH={place / 'site'} STAND_IN={place} exec {sys.executable}")
    return place


def answered(place: Path) -> dict[str, list[int]]:
    """What transformers answers to each prompt, by its token ids, with the tuned model in float32."""
    from tiny_generation import by_transformers

    from objectives.generate import Generator
    from objectives.ifeval import load_prompts
    from train import model
    from train.recipe import Base

    base = model.load_base(Base(model=str(place / "model")), threads=1, device="cpu", quantize=False)
    tuned = model.load_adapter(base, place / "studies" / "tiny" / "runs" / "003" / "adapter")
    generator = Generator(tuned, base.tokenizer, None, NEW_TOKENS, 1)
    rows = generator.encode([prompt.prompt for prompt in load_prompts(place / "prompts.jsonl")])
    made = by_transformers(tuned, rows, generator.end_tokens, NEW_TOKENS)
    return {str(row): tokens for row, tokens in zip(rows, made, strict=True)}


def python(path: Path, command: str) -> str:
    path.write_text(f'#!/bin/sh\n{command} "$@"\n')
    path.chmod(0o755)
    return str(path)


def score(made: Path, out: Path, engine: Engine, batch_size: int = 4) -> tuple[Json, list[Json]]:
    """What the process writes for the tuned run, in float32, and what it tells."""
    model = score_model.find(str(made / "studies" / "tiny" / "runs" / "003"))
    machine = Machine("cpu", "cpu", 1, False, engine)
    prompts = score_settings.prompts(model, "search", None)
    lengths = {"max_new_tokens": NEW_TOKENS, "batch_size": batch_size}
    settings = score_settings.settings(model, machine, prompts, score_settings.chat_template(model, None), **lengths)
    out.mkdir(exist_ok=True)
    job = score_job.score_job(model, prompts, settings, out, save_samples=False)
    events: list[Json] = []
    scoring.score({**job, **score_job.known(machine)}, events.append)
    return json.loads((out / "score.json").read_text()), events


def facts(record: Json) -> Json:
    return {name: value for name, value in record["scores"]["search"].items() if name != "seconds"}


def test_vllm_s_answers_are_scored_kept_and_gone_on_with(made: Path, tmp_path: Path) -> None:
    engine = score_engine.engine("vllm", str(made / "python"))
    assert engine == Engine(ENGINE, str(made / "python"))
    record, events = score(made, tmp_path / "vllm", engine)
    own, _ = score(made, tmp_path / "own", score_engine.OWN)
    assert facts(record) == facts(own)
    assert (record["settings"]["engine"], record["fallback"]) == (ENGINE, None)
    assert [event["done"] for event in events if event["event"] == "answers"] == [4, 8, 12]
    assert f"4 prompts at once by {ENGINE}" in score_view._settings(record)

    options = json.loads((made / "options.json").read_text())
    assert (options["model"], options["dtype"], options["max_num_seqs"]) == (str(made / "model"), "float32", 4)
    assert (options["enable_lora"], options["max_lora_rank"], "quantization" in options) == (True, 8, False)
    assert "a library that prints" in (tmp_path / "vllm" / "vllm.txt").read_text()

    kept = tmp_path / "vllm" / "answers-search.jsonl"
    kept.write_text("".join(kept.read_text().splitlines(keepends=True)[:3]))
    (made / "asked.jsonl").unlink()
    again, events = score(made, tmp_path / "vllm", engine)
    assert facts(again) == facts(record)
    assert [event["kept"] for event in events if event["event"] == "answers"] == [4, 8, 8]
    asked = [json.loads(line) for line in (made / "asked.jsonl").read_text().splitlines()]
    assert asked == [[3, 8], [4, NEW_TOKENS]]  # the try, and what was not kept


def test_where_vllm_differs_our_own_answers_are_scored_and_the_score_says_so(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_MODE", "other")
    record, _ = score(made, tmp_path / "fallen", Engine(ENGINE, str(made / "python")), batch_size=128)
    assert record["fallback"].startswith(
        "the answers are Nightshift's own and not vLLM's, which differs from model.generate: token "
    )
    assert (record["settings"]["engine"], record["settings"]["batch_size"]) == ("nightshift", 16)
    scores = score_job.scores_of(record)["search"]
    assert any("Nightshift's own and not vLLM's" in line for line in score_view._warnings(scores, record))


def test_a_vllm_that_cannot_be_loaded_is_told(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_MODE", "broken")
    with pytest.raises(ObjectiveError, match=r"vLLM ended .* \(exit code 1; .*no card here\).*vllm.txt. Mend its env"):
        score(made, tmp_path / "broken", Engine(ENGINE, str(made / "python")))
    assert [path.name for path in (tmp_path / "broken").iterdir()] == ["vllm.txt"]


def test_a_python_without_vllm_is_told_before_anything_is_loaded(made: Path, tmp_path: Path) -> None:
    without = python(tmp_path / "without", 'echo "ModuleNotFoundError: no such thing" >&2; exit 1; :')
    for given, said in [
        (
            (),
            "pip install vllm bitsandbytes) and name its python: --vllm-python ~/vllm/bin/python, or NIGHTSHIFT_VLLM",
        ),
        (("--vllm-python", tmp_path / "nowhere"), "nowhere cannot be started (No such file or directory)"),
        (("--vllm-python", without), "without has no vLLM (ModuleNotFoundError: no such thing); install it there"),
    ]:
        answer = CliRunner().invoke(app, ["score", str(made / "model"), "--engine", "vllm", *map(str, given)])
        assert (answer.exit_code, answer.stdout) == (2, ""), answer.output
        assert said in " ".join(answer.stderr.split())


def test_scores_of_two_engines_are_not_taken_for_the_same(made: Path, tmp_path: Path) -> None:
    model = score_model.find(str(made / "model"))
    facts = [Machine("cpu", "cpu", 1, True, engine).facts for engine in (score_engine.OWN, Engine(ENGINE, "python"))]
    prompts = score_settings.prompts(model, "all", made / "prompts.jsonl")
    assert [one["engine"] for one in facts] == ["nightshift", ENGINE]
    settings = score_settings.settings(model, Machine("cpu", "cpu", 1, True), prompts, None)
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    (tmp_path / "answers-all.jsonl").touch()
    with pytest.raises(SearchError, match=f"engine nightshift, now {ENGINE}"):
        score_file.check_settings(tmp_path, {**settings, "engine": ENGINE})


def test_nightshift_s_own_python_and_what_is_none_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match=r"is Nightshift's own environment, where vLLM would replace its torch; make"):
        score_engine.engine("vllm", sys.executable)
    with pytest.raises(SearchError, match=r"true is no python: asked for vLLM's version it said nothing; make one"):
        score_engine.engine("vllm", shutil.which("true"))
