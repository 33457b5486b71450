"""`nightshift score`: a real adapter scored by the real process, stopped on the way, and every mistake before it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_scored
from typer.testing import CliRunner, Result

from objectives.score import ObjectiveError
from search import freeze, score_file, score_job, score_model, score_settings, score_view, scoring
from search.cli import GO_ON, app
from search.errors import SearchError, WorkerFailed
from train.rundir import RunDir, write_json

ASKED = ["--prompts", "all", "--max-new-tokens", "60", "--batch-size", "1", "--save-samples", "--device", "cpu"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("scored")
    tiny_scored.write_run(place)
    return place


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("COLUMNS", "160")


def nightshift(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="nightshift")


@contextmanager
def process(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "search.cli", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as started:
        try:
            yield started
        finally:
            started.kill()


@pytest.fixture(scope="module")
def scored(made: Path) -> Path:
    """The scores of the run: stopped by Ctrl-C once the first answers were there, and gone on with."""
    run = made / "studies" / "tiny" / "runs" / "003"
    with process("score", run, *ASKED) as first:
        assert first.stderr is not None
        while "answered" not in (line := first.stderr.readline()):
            assert line, first.wait()
        first.send_signal(signal.SIGINT)
        assert first.stderr.read().endswith(GO_ON + "\n")
    assert first.returncode == 130
    assert not (run / "scores" / "score.json").exists()
    kept = (run / "scores" / "answers-search.jsonl").read_text().splitlines()
    with process("score", run, *ASKED) as second:
        out, error = second.communicate(timeout=120)
    assert second.returncode == 0, error
    assert "all prompts" in out
    assert (run / "scores" / "answers-search.jsonl").read_text().splitlines()[: len(kept)] == kept
    return run / "scores"


def test_a_score_that_is_terminated_says_that_it_goes_on(made: Path, tmp_path: Path) -> None:
    with process("score", made / "model", "--file", made / "prompts.jsonl", *ASKED, "--out", tmp_path / "out") as first:
        assert first.stderr is not None
        while "answered" not in (line := first.stderr.readline()):
            assert line, first.wait()
        first.send_signal(signal.SIGTERM)
        assert first.stderr.read().endswith(GO_ON + "\n")
    assert first.returncode == 128 + signal.SIGTERM
    assert (tmp_path / "out" / "answers-search.jsonl").exists()


def settled(run: Path, *, batch_size: int = 1) -> tuple[score_model.ScoredModel, score_settings.Machine, dict]:  # type: ignore[type-arg]
    """The model in `run`, the machine, and the settings of ASKED."""
    model = score_model.find(str(run))
    machine = score_settings.machine("cpu", True)
    prompts, template = score_settings.prompts(model, "all", None), score_settings.chat_template(model, None)
    lengths = {"max_new_tokens": 60, "batch_size": batch_size}
    return model, machine, score_settings.settings(model, machine, prompts, template, **lengths)


def test_what_was_stopped_and_gone_on_with_is_what_one_start_gives(scored: Path, tmp_path: Path) -> None:
    model, machine, settings = settled(scored.parent)
    prompts = score_settings.prompts(model, "all", None)
    job = score_job.score_job(model, prompts, settings, tmp_path, save_samples=True)
    events: list[dict[str, object]] = []
    scoring.score({**job, **score_job.known(machine)}, events.append)
    whole, stopped = (json.loads((folder / "score.json").read_text()) for folder in (tmp_path, scored))
    for record in (whole, stopped):
        for score in record["scores"].values():
            assert score.pop("seconds") > 0
    assert whole == stopped
    assert (tmp_path / "samples.jsonl").read_text() == (scored / "samples.jsonl").read_text()
    assert {len(stopped["texts"]), stopped["scores"]["all"]["prompt_strict"]["n"]} == {24}
    assert stopped["settings"]["chat_template"] == tiny.TEMPLATE
    assert stopped["scores"]["all"]["tokens"] > 0
    assert [e["done"] for e in events if e["event"] == "answers"] == [4, 8, 12, 16, 20, 24]


def test_what_is_there_is_shown_again_without_loading_anything(scored: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in scored.iterdir()}
    answer = nightshift("score", scored.parent, *ASKED)
    assert answer.exit_code == 0
    assert answer.stderr.startswith("warning: ")
    assert "the sealed half is for the final run" in answer.stderr
    words = " ".join(answer.stdout.split())
    for said in (
        "search half sealed half all prompts",
        "prompts asked 12 12 24",
        "prompts, strict",
        "instructions, loose",
        "startend:quotation",
        "hit the length cap",
        "tokens/s, checking included",
        f"nightshift compare {scored} OTHER",
    ):
        assert said in words
    record = json.loads(nightshift("score", scored.parent, *ASKED, "--json").stdout)
    assert record == {"out": str(scored), **json.loads((scored / "score.json").read_text())}
    assert {path: path.stat().st_mtime_ns for path in scored.iterdir()} == before


def test_one_half_of_what_is_there_is_shown_alone(scored: Path) -> None:
    rest = [word for word in ASKED if word not in ("--prompts", "all")]
    answer = nightshift("score", scored.parent, *rest)  # a trial: the search half, if nothing else is said
    assert answer.exit_code == 0, answer.stderr
    assert "search half" in answer.stdout
    assert "sealed half" not in answer.stdout


def test_other_settings_do_not_overwrite_a_score(scored: Path) -> None:
    answer = nightshift("score", scored.parent, *ASKED, "--max-new-tokens", "50", "--weights", "full")
    assert answer.exit_code == 2
    said = " ".join(answer.stderr.split())
    assert "made with other settings (max_new_tokens 60, now 50; weights nf4, now full)" in said
    assert f"give another folder with --out, or move this one away: mv {scored} {scored}-old" in said


def test_warnings_say_what_a_reader_has_to_know(scored: Path) -> None:
    record = json.loads((scored / "score.json").read_text())
    score = score_job.scores_of(record)["all"]
    doubtful = score.model_copy(update={"exact": False, "halved": True, "empty": 1})
    lines = list(score_view._warnings(doubtful, {**record, "fallback": "made by model.generate: another token at 3"}))
    assert [line.split(":")[0] for line in lines[:4]] == ["warning"] * 4
    text = "\n".join(lines)
    for said in ("1 answer without text", "punkt_tab", "the batch was halved", "model.generate: another token at 3"):
        assert said in text


def test_the_line_of_progress_tells_what_this_start_made(capsys: pytest.CaptureFixture[str]) -> None:
    event = {"event": "answers", "part": "sealed", "prompts": 541, "done": 400, "kept": 300}
    made = {"tokens": 12000, "seconds": 40.0}
    with score_view.Following() as follow:
        follow({**event, "done": 300, "tokens": 0, "seconds": 0.0})
        follow({**event, **made})
    assert capsys.readouterr().err.splitlines() == [
        "300 of 541 prompts answered, 300 of them by an earlier start, now in the sealed half",
        "400 of 541 prompts answered, 300 of them by an earlier start, now in the sealed half; 12,000 tokens in "
        "40.0 s, 300 tokens/s",
    ]


# Where model, template and prompts come from


def test_a_single_prompt_is_scored_as_it_is(made: Path, tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text((made / "prompts.jsonl").read_text().splitlines()[0])
    model = score_model.find(str(made / "model"))
    asked = score_settings.prompts(model, "all", tmp_path / "one.jsonl")
    machine = score_settings.Machine("cpu", "cpu", 1, True)
    settings = score_settings.settings(model, machine, asked, None, max_new_tokens=4, batch_size=1)
    job = score_job.score_job(model, asked, settings, tmp_path, save_samples=True)
    scoring.score({**job, **score_job.known(machine)}, lambda _: None)
    record = score_job.stored_score(tmp_path, "all")
    assert record is not None
    assert [(part, score.prompt_strict.n) for part, score in score_job.scores_of(record).items()] == [("all", 1)]
    assert score_job._has_samples(tmp_path, record, "all")


def test_an_adapter_beside_its_recipe_is_that_run(made: Path) -> None:
    run = made / "studies" / "tiny" / "runs" / "003"
    model = score_model.find(str(run / "adapter"))
    assert (model.run, model.recipe) == (RunDir(run), RunDir(run).recipe())
    assert model == score_model.find(str(run))
    assert score_settings.part_of(model, None) == "search"
    assert score_settings.chat_template(model, None) == tiny.TEMPLATE


def test_an_adapter_elsewhere_takes_its_base_s_template(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "studies" / "tiny" / "runs" / "003" / "adapter", tmp_path / "mine")
    model = score_model.find("mine")
    assert (model.base.model, model.recipe, model.run) == (str(made / "model"), None, None)
    assert model.adapter_sha256 == score_model.find(str(made / "studies" / "tiny" / "runs" / "003")).adapter_sha256
    assert score_settings.chat_template(model, None) is None  # the tokenizer has one
    assert score_settings.part_of(model, None) == "all"
    assert score_settings.out_folder(model, None) == Path("scores/mine")


def test_a_trial_is_asked_as_its_study_says(made: Path) -> None:
    study = made / "studies" / "tiny"
    run = score_model.find(str(study / "runs" / "003"))
    own = {"max_new_tokens": 8, "batch_size": 8}
    said = f"max_new_tokens 8 and batch_size 8 as in {study / 'study.toml'}"
    assert score_settings.lengths(run, None, None, "nightshift") == (own, said)
    assert score_settings.lengths(run, None, None, "vllm")[0] == {"max_new_tokens": 8, "batch_size": 128}
    base = score_model.find(str(made / "model"))
    assert score_settings.lengths(base, None, None, "nightshift") == ({"max_new_tokens": 1280, "batch_size": 16}, "")


def test_only_a_trial_s_sealed_half_is_warned_of(made: Path) -> None:
    run, base = (score_model.find(str(made / name)) for name in ("studies/tiny/runs/003", "model"))
    assert [bool(score_settings.opened(run, part)) for part in ("search", "sealed", "all")] == [False, True, True]
    assert not score_settings.opened(base, "all")


def test_a_model_has_as_many_threads_alone_as_beside_its_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    assert score_settings.machine("cpu", True).threads == 1  # OMP_NUM_THREADS
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert score_settings.machine("cpu", True).threads == len(os.sched_getaffinity(0))


def test_the_untuned_model_of_a_study_needs_no_adapter(made: Path) -> None:
    runs = made / "studies" / "tiny" / "runs"
    base = RunDir(runs / "base")
    base.create(RunDir(runs / "003").recipe())
    model = score_model.find(str(base.path))
    assert (model.adapter, model.facts.sha256) == (None, score_model.find(str(made / "model")).facts.sha256)


def test_a_final_run_s_prompts_are_those_that_were_frozen(made: Path, tmp_path: Path) -> None:
    final = RunDir(tmp_path / "final")
    shutil.copytree(made / "studies" / "tiny" / "runs" / "003", final.path, ignore=shutil.ignore_patterns("scores"))
    file = tmp_path / "asked.jsonl"
    tiny.write_prompts(file, 10)
    digest = score_settings.read_prompts(file)[1]
    for sha256 in (digest, "0" * 64):
        objective = {"prompts": str(file), "prompts_sha256": sha256, "max_new_tokens": 48, "batch_size": 3}
        (tmp_path / "final_run.py").write_text(freeze.render({"objective": objective}))
        model = score_model.find(str(final.path))
        if sha256 == digest:
            assert score_settings.prompts(model, score_settings.part_of(model, None), None).count == 10
            source = tmp_path / "final_run.py"
            assert score_settings.lengths(model, None, None, "nightshift") == (
                {"max_new_tokens": 48, "batch_size": 3},
                f"max_new_tokens 48 and batch_size 3 as in {source}",
            )
            assert score_settings.lengths(model, 9, 9, "vllm") == ({"max_new_tokens": 9, "batch_size": 9}, "")
        else:
            with pytest.raises(ObjectiveError, match="is not the file that was frozen with"):
                score_settings.prompts(model, "all", None)
            assert score_settings.prompts(model, "sealed", file).count == 5
    (tmp_path / "final_run.py").write_text("print()")
    with pytest.raises(SearchError, match=r"was edited, so that its prompts .* are not known: add --file PATH, --max"):
        score_settings.prompts(model, "all", None)


# Mistakes


def mistakes(place: Path, made: Path) -> None:
    """Files that are wrong in one thing each, in the folder `place`."""
    (place / "empty").mkdir()
    lines = (made / "prompts.jsonl").read_text().splitlines()
    (place / "unknown.jsonl").write_text("\n".join([*lines[:2], lines[2].replace("no_comma", "no_coma")]))
    (place / "one.jsonl").write_text(lines[0])
    (place / "bare").mkdir()
    shutil.copytree(made / "model", place / "bare", dirs_exist_ok=True)
    (place / "bare" / "chat_template.jinja").unlink()
    shutil.copytree(made / "model", place / "endless")
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        if (config := place / "endless" / file).exists():
            config.write_text(json.dumps({**json.loads(config.read_text()), "eos_token": None}))
    (place / "broken.jinja").write_text("{% for m in messages %}")
    (place / "mute.jinja").write_text("### ")
    run = made / "studies" / "tiny" / "runs" / "003"
    pruned = RunDir(place / "pruned")
    pruned.create(RunDir(run).recipe())
    write_json(pruned.result, {"outcome": "pruned"})
    shutil.copytree(run, place / "other")
    (place / "other" / "recipe.json").write_text('{"rank": "x"}')
    for name in ("pickled", "orphan"):
        shutil.copytree(run / "adapter", place / name)
    (place / "pickled" / "adapter_model.safetensors").rename(place / "pickled" / "adapter_model.bin")
    config = json.loads((place / "orphan" / "adapter_config.json").read_text())
    for name, base in (("orphan", None), ("lost", "./nowhere")):
        shutil.copytree(run / "adapter", place / name, dirs_exist_ok=True)
        (place / name / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": base}))


def test_every_mistake_is_told_before_anything_is_loaded(made: Path, tmp_path: Path) -> None:
    mistakes(tmp_path, made)
    model, prompts = made / "model", ("--file", made / "prompts.jsonl")
    before = sorted(tmp_path.rglob("*"))
    for arguments, said in [
        (["nowhere", *prompts], "nowhere: there is no such folder, and a hub id has the form owner/name: give a model"),
        (
            ["emtpy", *prompts],
            "emtpy: there is no such folder, and a hub id has the form owner/name: did you mean empty?",
        ),
        (
            ["owner/nowhere", *prompts],
            "there is no folder owner/nowhere, the hub cannot be reached, and the cache does",
        ),
        (["", *prompts], "the model's name is empty; give a model's folder or hub id"),
        ([made / "studies" / "tiny" / "runs" / "3"], f"did you mean {made / 'studies' / 'tiny' / 'runs' / '003'}?"),
        ([made / "studies" / "tiny" / "runs" / "9"], "there is no such run; the last one that holds an adapter is 003"),
        ([made], f"is a study; give one of its models: {made / 'studies' / 'tiny' / 'runs' / '003'} for trial 3"),
        (
            [model, *prompts, "--max-new-tokens", 9, "--out", made / "prompts.jsonl" / "x"],
            "prompts.jsonl is a file; give a folder",
        ),
        ([model, *prompts, "--max-new-tokens", "250"], "model's 256 positions: lower --max-new-tokens to 2"),
        (["empty", *prompts], "empty has no config.json, so it is no model in Hugging Face format"),
        ([made / "prompts.jsonl", *prompts], "is a file; give the folder that holds config.json"),
        ([model], "which prompts? There is no ifeval_input_data.jsonl here"),
        ([model, "--file", "gone.jsonl"], "gone.jsonl does not exist"),
        ([model, "--file", "unknown.jsonl"], "line 3, key 2: punctuation:no_coma is no instruction type of IFEval"),
        (
            [model, "--file", "one.jsonl", "--prompts", "search"],
            "need one of their own; give more, or ask all of them with",
        ),
        (["endless", *prompts], "endless has no EOS token, so that answers would not end and could not be scored"),
        ([model, *prompts, "--ifbench", "x"], "--ifbench x: nothing was generated, as nothing could judge it"),
        (["bare", *prompts], "bare has no chat template, as base models often do: put one into a file"),
        (["bare", *prompts, "--chat-template", "gone"], "--chat-template gone cannot be read"),
        (["bare", *prompts, "--chat-template", "broken.jinja"], "is no Jinja: line 1"),
        (
            ["bare", *prompts, "--chat-template", "mute.jinja"],
            "mute.jinja never shows what a user says: it makes '### '",
        ),
        ([made / "studies" / "tiny"], "is a study; give one of its models"),
        (["pruned"], "pruned holds no adapter: it is pruned; give a run that was trained to its end"),
        (["other"], "recipe.json is no recipe of this Nightshift (base: Field required)"),
        (["pickled", *prompts], "only pickled weights (adapter_model.bin), which can run code"),
        (["orphan", *prompts], "names no base model (base_model_name_or_path)"),
        (["lost", *prompts], "names its base model, and the base model's folder ./nowhere does not exist"),
        ([model, *prompts, "--prompts", "half"], "'half' is not one of 'search', 'sealed', 'all'"),
        ([model, *prompts, "--max-new-tokens", "0"], "greater than or equal to 1"),
    ]:
        answer = nightshift("score", *arguments)
        assert (answer.exit_code, answer.stdout) == (2, ""), answer.output
        assert said in " ".join(answer.stderr.replace("│", " ").split())
        assert "Traceback" not in answer.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_card_that_is_not_here_is_told(made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # where there is no nvidia-smi
    answer = nightshift("score", made / "model", "--file", made / "prompts.jsonl", "--device", "cuda")
    assert answer.exit_code == 2
    assert "--device cuda: there is no NVIDIA card here that can be used" in " ".join(answer.stderr.split())


def test_two_at_once_in_one_folder_are_refused(scored: Path, tmp_path: Path) -> None:
    model, machine, settings = settled(scored.parent)
    prompts = score_settings.prompts(model, "all", None)
    out = tmp_path / "busy"
    out.mkdir()
    with (
        score_job._alone(out),
        pytest.raises(SearchError, match=r"another process is scoring into .*busy; wait for it"),
    ):
        score_job.score(model, machine, prompts, "all", settings, out, save_samples=False, watch=lambda _: None)


def test_a_process_that_dies_is_explained(scored: Path, tmp_path: Path) -> None:
    model, machine, settings = settled(scored.parent)
    prompts = score_settings.prompts(model, "all", None)
    job = score_job.score_job(model, prompts, settings, tmp_path, save_samples=False)
    with pytest.raises(WorkerFailed, match="ended before it was done: exit code 1; the last it said: KeyError: 'no'"):
        score_job.run({**job, "kind": "no"}, machine, tmp_path, lambda _: None)
    assert not (tmp_path / "job.json").exists()


def spoiled(record: dict[str, Any], what: str) -> dict[str, Any]:
    """The record with one thing wrong."""
    if what == "share":
        record["scores"]["all"]["prompt_strict"]["value"] = 7.5
    elif what == "score":
        record["scores"]["all"] = {}
    elif what == "no settings":
        del record["settings"]
    else:
        record[what] = None
    return record


@pytest.mark.parametrize("what", ["text", "list", "share", "score", "scores", "texts", "settings", "no settings"])
def test_a_damaged_score_is_told_with_what_to_do(scored: Path, tmp_path: Path, what: str) -> None:
    shutil.copytree(scored, tmp_path / "damaged")
    path = tmp_path / "damaged" / "score.json"
    text = {"text": '{"scores": {"all": ', "list": "[]"}.get(what)
    path.write_text(text or json.dumps(spoiled(json.loads(path.read_text()), what)))
    answer = nightshift("score", scored.parent, *ASKED, "--out", tmp_path / "damaged")
    assert answer.exit_code == 2, answer.output
    assert f"score.json is damaged; remove it, and what was answered already is scored again: rm {path}" in " ".join(
        answer.stderr.split()
    )


def test_a_score_without_its_settings_is_not_taken_for_another_model_s(
    scored: Path, made: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(scored, tmp_path / "out"))
    (out / "settings.json").unlink()
    again = nightshift("score", scored.parent, *ASKED, "--out", out)
    assert again.exit_code == 0, again.stderr
    other = nightshift("score", made / "model", "--file", made / "prompts.jsonl", *ASKED, "--out", out)
    assert other.exit_code == 2
    assert "holds answers that were made with other settings (another adapter" in " ".join(other.stderr.split())


def test_damaged_settings_matter_only_without_a_score(scored: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(scored, tmp_path / "out"))
    (out / "settings.json").write_text("[]")
    assert nightshift("score", scored.parent, *ASKED, "--out", out).exit_code == 0
    (out / "score.json").unlink()
    with pytest.raises(SearchError, match=r"settings.json is damaged; remove it"):
        score_file.check_settings(out, {})


def test_a_folder_without_answers_is_free(made: Path, tmp_path: Path) -> None:
    """What a refused start left does not stand in the way of the cure."""
    write_json(tmp_path / "settings.json", {"max_new_tokens": 1280})
    score_file.check_settings(tmp_path, {"max_new_tokens": 60})
    (tmp_path / "answers-search.jsonl").touch()
    with pytest.raises(SearchError, match="max_new_tokens 1280, now 60"):
        score_file.check_settings(tmp_path, {"max_new_tokens": 60})


def test_answers_to_other_prompts_stay_in_the_samples(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text('{"key": 1, "response": "old"}\n{"key": 2, "response": "kept"}\nhalf a li')
    scoring._add_samples(path, [{"key": 1, "response": "new"}, {"key": 3, "response": "new"}])
    rows = {row["key"]: row["response"] for row in map(json.loads, path.read_text().splitlines())}
    assert rows == {1: "new", 2: "kept", 3: "new"}


def test_samples_of_one_half_are_not_those_of_all(scored: Path, tmp_path: Path) -> None:
    shutil.copytree(scored, tmp_path / "half")
    record = score_job.stored_score(scored, "all")
    assert record is not None
    assert score_job._has_samples(scored, record, "all")
    lines = (scored / "samples.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "half" / "samples.jsonl").write_text("".join(lines[1:]))
    assert not score_job._has_samples(tmp_path / "half", record, "all")


def test_a_folder_that_cannot_be_made_is_told(scored: Path) -> None:
    model, machine, settings = settled(scored.parent)
    prompts = score_settings.prompts(model, "all", None)
    with pytest.raises(SearchError, match=r"cannot be made .* give another folder with --out"):
        score_job.score(
            model, machine, prompts, "all", settings, Path("/proc/x"), save_samples=False, watch=lambda _: None
        )
