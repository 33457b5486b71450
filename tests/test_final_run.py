"""final_run.py as a user runs it: the one at the top of the repository, and a frozen one, killed and started again."""

from __future__ import annotations

import ast
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made_study
import pytest

from search import freeze
from train import final, interrupts, lock
from train.decisions import FILE, Decisions
from train.recipe import Recipe, digest_of
from train.rundir import Damaged, RunDir, read_json, taken, write_json

REPOSITORY = Path(__file__).resolve().parents[1]
DEFAULT = REPOSITORY / "final_run.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def start(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start the file of a folder, from another folder."""
    return subprocess.Popen(
        [sys.executable, str(folder / "final_run.py"), *arguments],
        cwd="/",
        env={**ENVIRONMENT, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    process = start(folder, *arguments, **environment)
    out, error = process.communicate(timeout=120)
    return process.returncode, out, error


def refused(folder: Path, *arguments: str, **environment: str) -> str:
    """What a start says that is refused: exit code 2, one message, no traceback."""
    code, out, error = run(folder, *arguments, **environment)
    assert (code, out) == (2, "")
    assert error.startswith("final_run: ")
    assert error.count("\n") == 1 or "this environment is not the one that was frozen" in error
    assert "Traceback" not in error
    return error


# The default


def code_of(path: Path) -> str:
    """Its syntax tree without docstring and constant."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstring = tree.body.pop(0)
    assert isinstance(docstring, ast.Expr)
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FROZEN":
            assert isinstance(node.value, ast.Call)
            node.value.args = []
    return ast.dump(tree)


def test_the_default_is_the_template_with_another_docstring_and_recipe() -> None:
    assert code_of(DEFAULT) == code_of(freeze.TEMPLATE)
    text = DEFAULT.read_text(encoding="utf-8")
    assert text.isascii()
    assert "chosen by hand, not searched" in text.partition('"""\n\n')[0]


def test_it_can_be_read_in_one_sitting() -> None:
    assert len(freeze.TEMPLATE.read_text(encoding="utf-8").splitlines()) <= 190
    modules = {
        node.module.partition(".")[0] if isinstance(node, ast.ImportFrom) and node.module else ""
        for node in ast.walk(ast.parse(freeze.TEMPLATE.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
    }
    assert modules <= {*sys.stdlib_module_names, "train", "objectives"}


def frozen_in(path: Path) -> dict[str, Any]:
    (text,) = re.findall(r'^FROZEN = json\.loads\(r"""(.*?)"""\)', path.read_text(), flags=re.DOTALL | re.MULTILINE)
    return dict(json.loads(text))


def test_the_default_recipe_is_complete_and_pinned() -> None:
    frozen = frozen_in(DEFAULT)
    recipe = Recipe.model_validate_json(json.dumps(frozen["recipe"]))
    assert set(frozen["recipe"]) == set(Recipe.model_fields)
    assert frozen["recipe_sha256"] == recipe.digest
    assert recipe.base.revision
    assert all(source.revision for source in recipe.sources)
    assert recipe.examples % recipe.batch_size == 0
    assert frozen["hours"] == 24.0
    assert frozen["origin"]["how"] == "chosen by hand"


def test_the_default_is_frozen_with_the_versions_that_are_installed_here() -> None:
    pinned = dict(line.split("==") for line in (REPOSITORY / "constraints.txt").read_text().split() if "==" in line)
    versions = {name: version for name, version in frozen_in(DEFAULT)["versions"].items() if name != "nightshift"}
    assert versions == {name: pinned[name] for name in versions}


def test_without_a_cuda_device_the_default_says_so_and_writes_nothing(tmp_path: Path) -> None:
    shutil.copy(DEFAULT, tmp_path)
    message = refused(tmp_path, PATH="/nowhere")
    assert "needs a CUDA device" in message
    assert [path.name for path in tmp_path.iterdir()] == ["final_run.py"]


# A frozen one


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> made_study.MadeStudy:
    """A study on a real model, whose best trial is frozen."""
    root = tmp_path_factory.mktemp("final")
    file = made_study.write_study_file(root, examples=480)
    made = made_study.MadeStudy(file, root / "studies" / "tiny", states="CC")
    freeze.freeze(made.config, made.folder)
    return made


@pytest.fixture
def folder(world: made_study.MadeStudy, tmp_path: Path) -> Path:
    """A folder with the frozen file and its lock alone."""
    shutil.copy(world.folder / "final_run.py", tmp_path)
    shutil.copy(world.folder / lock.FILE, tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def done(world: made_study.MadeStudy) -> Path:
    """The run: stopped by SIGTERM, killed some steps after a checkpoint, and gone on with to its end."""
    stop_at(world.folder, step=9, number=signal.SIGTERM, code=143)
    assert "of 60 (" in run(world.folder, "--status")[1]
    stop_at(world.folder, step=33, number=signal.SIGKILL, code=-signal.SIGKILL)
    code, out, error = run(world.folder)
    assert code == 0, error
    assert "half that it never saw (12)" in out
    assert "going on from the checkpoint of step " in out
    return world.folder


def stop_at(folder: Path, step: int, number: int, code: int) -> None:
    """Start, send a signal once that step is recorded, and wait for the end."""
    process, events = start(folder), RunDir(folder / "final")
    deadline = time.monotonic() + 100
    while process.poll() is None and max([e.get("step", 0) for e in events.read_events()], default=0) < step:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code, error
    assert number == signal.SIGKILL or "start it again" in error
    assert not events.result.exists()


def test_its_adapter_is_that_of_a_run_without_interruption(done: Path, tmp_path: Path) -> None:
    recipe, whole = RunDir(done / "final").recipe(), RunDir(tmp_path / "final")
    whole.path.mkdir()
    Decisions(whole.path / FILE, recipe).take(done / "final" / FILE)
    limits = final.Limits(hours=1.0, longest=recipe.examples, checkpoint_minutes=1e9)
    with interrupts.Signals() as signals:
        final.train_within(recipe, whole, "cpu", limits, signals, lambda _: None)
    name = "adapter_model.safetensors"
    assert (done / "final" / "adapter" / name).read_bytes() == (whole.adapter / name).read_bytes()
    resumed = [event["step"] for event in RunDir(done / "final").read_events() if event["event"] == "resumed"]
    assert len(resumed) == 2
    assert resumed[1] > resumed[0] >= 9


def test_a_run_is_trained_scored_and_measured(done: Path) -> None:
    result = read_json(RunDir(done / "final").result)
    assert result is not None
    assert result["outcome"] == "completed"
    assert result["examples"] == RunDir(done / "final").recipe().examples
    assert {half: score["prompt_strict"]["n"] for half, score in result["scores"].items()} == {
        "search": 12,
        "sealed": 12,
        "all": 24,
    }
    assert result["base_scores"].keys() == result["scores"].keys()
    assert result["latency"]["runs"] == 10
    merged = result["merged"]
    assert (merged["weights"], merged["latency"]["runs"], merged["size"]["trainable_parameters"]) == ("float32", 10, 0)
    assert merged["scores"].keys() == merged["agreement"]["scores"].keys() == result["scores"].keys()
    assert merged["agreement"]["texts"]["n"] == 24
    assert not (done / "final" / "merged").exists()
    assert result["size"]["trainable_parameters"] == result["trainable_parameters"]
    assert result["recipe_sha256"] == frozen_in(done / "final_run.py")["recipe_sha256"]
    assert result["versions"] == frozen_in(done / "final_run.py")["versions"]
    assert len(RunDir(done / "final").samples.read_text().splitlines()) == 24


def test_a_merged_model_that_cannot_be_had_costs_nothing_but_itself(done: Path, tmp_path: Path) -> None:
    """Once training and scores are there: with an adapter that cannot be merged any more, the run ends all the same."""
    shutil.copytree(done, folder := tmp_path / "tiny")
    run_dir = RunDir(folder / "final")
    run_dir.result.unlink()
    config = read_json(run_dir.adapter / "adapter_config.json")
    write_json(run_dir.adapter / "adapter_config.json", {**(config or {}), "fan_in_fan_out": True})
    code, out, error = run(folder)
    assert code == 0, error
    result = read_json(run_dir.result)
    assert result is not None
    assert "is no LoRA of a model's linear layers" in result["merged"]["left_out"]
    assert "the merged model was not looked at: " in out


def test_a_second_start_only_shows_the_result(done: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (done / "final").rglob("*")}
    code, out, _ = run(done)
    assert (code, "IFEval" in out) == (0, True)
    assert run(done, "--status")[1] == out
    assert {path: path.stat().st_mtime_ns for path in (done / "final").rglob("*")} == before


def test_before_the_first_start_the_status_says_so(folder: Path) -> None:
    assert run(folder, "--status") == (0, "not a step is made yet\n", "")
    assert not (folder / "final").exists()


def test_two_runs_in_one_folder_are_refused(folder: Path) -> None:
    (folder / "final").mkdir()
    with open(folder / "final" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, _, error = run(folder)
    assert code == 2
    assert "another process is at work" in error
    assert "Traceback" not in error


def edit(folder: Path, old: str, new: str, *, signed: bool = True) -> None:
    """Replace `old`, and the digest of it all, unless the edit is to be noticed."""
    path = folder / "final_run.py"
    text = path.read_text()
    assert text.count(old) == 1, text.count(old)
    before = frozen_in(path)["sha256"]
    path.write_text(text.replace(old, new))
    if signed:
        path.write_text(path.read_text().replace(before, digest_of(frozen_in(path))))


def test_an_edited_recipe_is_refused_unless_it_is_meant(folder: Path) -> None:
    edit(folder, '"max_length": 64', '"max_length": 48', signed=False)
    assert "was edited: confirm it with --edited, or move it away and freeze again: mv " in refused(folder)
    assert run(folder, "--status", "--edited")[0] == 0


def test_whatever_else_was_edited_is_noticed(folder: Path) -> None:
    hours = frozen_in(folder / "final_run.py")["hours"]
    edit(folder, f'"hours": {hours}', '"hours": 23.5', signed=False)
    assert "was edited: confirm it with --edited, or move it away and freeze again: mv " in refused(folder)


def test_a_recipe_of_another_version_is_told_from_an_edited_one(folder: Path) -> None:
    digest = frozen_in(folder / "final_run.py")["recipe_sha256"]  # with a new field, old recipes get another one
    edit(folder, f'"recipe_sha256": "{digest}",\n "objective"', f'"recipe_sha256": "{"0" * 64}",\n "objective"')
    assert re.search(r"was frozen by another Nightshift \(.+\), whose recipes have other fields", refused(folder))


def test_a_recipe_that_is_none_is_refused(folder: Path) -> None:
    edit(folder, '"max_length": 64', '"max_length": "long"')
    code, out, error = run(folder, "--edited")
    assert (code, out) == (2, "")
    assert "max_length" in error
    assert "Traceback" not in error


def test_other_versions_are_named_and_refused(folder: Path) -> None:
    version = frozen_in(folder / "final_run.py")["versions"]["trl"]
    edit(folder, f'"trl": "{version}"', '"trl": "0.0.1"')
    edit(folder, '"peft": "', '"no-such-library": "1.0",\n  "peft": "')
    said = refused(folder)
    assert "--allow-other-versions\n" in said
    assert f"\n  trl: {version} here, 0.0.1 was frozen" in said
    assert "\n  no-such-library: not installed here, 1.0 was frozen" in said
    assert said.count("\n") == 3


def test_missing_prompts_are_named(folder: Path, world: made_study.MadeStudy) -> None:
    edit(folder, f'"prompts": "{world.config.objective.prompts}"', '"prompts": "elsewhere.jsonl"')
    assert "elsewhere.jsonl are not there" in refused(folder)


def test_other_prompts_are_refused(folder: Path, world: made_study.MadeStudy) -> None:
    shutil.copy(world.config.objective.prompts, folder / "mine.jsonl")
    with open(folder / "mine.jsonl", "a") as file:
        file.write("\n")
    edit(folder, f'"prompts": "{world.config.objective.prompts}"', '"prompts": "mine.jsonl"')
    assert "is not the file that was frozen" in refused(folder)


def test_prompts_that_the_data_must_not_overlap_with_are_frozen_too(folder: Path, world: made_study.MadeStudy) -> None:
    prompts = world.config.objective.prompts
    plain = frozen_in(folder / "final_run.py")["recipe"]["sources"][0]["filters"]["overlap_with"]
    assert plain == [{"path": str(prompts), "sha256": hashlib.sha256(prompts.read_bytes()).hexdigest()}]
    shutil.copy(prompts, folder / "mine.jsonl")
    edit(folder, f'"prompts": "{prompts}"', '"prompts": "mine.jsonl"')
    moved = prompts.rename(prompts.with_name("moved.jsonl"))
    try:
        code, _, said = run(folder)
    finally:
        moved.rename(prompts)
    assert code == 2
    assert "the evaluation prompts that the data must not overlap with, cannot be read: No such file" in said
    assert f"Put the file there (its sha256 is {plain[0]['sha256']})" in said


def test_data_that_changed_are_refused(folder: Path, world: made_study.MadeStudy, tmp_path: Path) -> None:
    changed = tmp_path / "plain.jsonl"
    shutil.copy(str(world.config.data[0].path), changed)
    with open(changed, "a") as file:
        file.write('{"prompt": "new", "response": "row"}\n')
    edit(folder, str(world.config.data[0].path), str(changed))
    assert "plain" in refused(folder, "--edited")


def test_data_that_are_gone_are_named(folder: Path, world: made_study.MadeStudy) -> None:
    edit(folder, str(world.config.data[0].path), "/nowhere/plain.jsonl")
    assert "/nowhere/plain.jsonl" in refused(folder, "--edited")


def test_hours_below_the_minimum_are_refused_with_it(folder: Path) -> None:
    frozen = frozen_in(folder / "final_run.py")
    edit(folder, f'"hours": {frozen["hours"]}', '"hours": 0.0001')
    said = refused(folder)
    assert "0.0001 hours are too few to load the model and make a few steps: it takes at least " in said
    assert frozen["least_hours"] <= float(said.split()[-1]) <= 1.1 * frozen["least_hours"]


def test_answers_that_do_not_fit_into_the_model_s_positions_are_refused_before_training(folder: Path) -> None:
    edit(folder, '"max_new_tokens": 8', '"max_new_tokens": 250')
    said = refused(folder)
    assert "with 250 new ones that is more than the model's 256 positions: freeze with max_new_tokens" in said
    assert not (folder / "final").exists()


def a_card(folder: Path, name: str, mib: int) -> str:
    """A PATH on which there is one NVIDIA card."""
    (folder / "bin").mkdir(exist_ok=True)
    program = folder / "bin" / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho {name}, {mib}, 550.1\n")
    program.chmod(0o755)
    return str(folder / "bin")


def test_a_smaller_card_than_the_run_needs_is_refused_before_a_second_is_used(folder: Path) -> None:
    edit(folder, '"device": "cpu"', '"device": "cuda"')
    said = refused(folder, PATH=a_card(folder, "NVIDIA Tiny 1", 64))
    assert re.search(r"needs \d+\.\d MiB of the card's memory, \d+\.\d MiB more than the NVIDIA Tiny 1 here has", said)
    assert not (folder / "final").exists()


@pytest.mark.parametrize("time_of_day", ["3:00", "25:00"])
def test_a_switch_off_that_is_no_time_of_day_is_refused(folder: Path, time_of_day: str) -> None:
    code, _, error = run(folder, "--until", time_of_day)
    assert code == 2
    assert error == f"final_run: {time_of_day!r} is no time of day like 03:00, from 00:00 to 23:59\n"
    assert not (folder / "final").exists()


def test_a_run_that_is_made_is_not_taken_for_a_replay(done: Path, folder: Path) -> None:
    said = refused(done, "--replay", str(done / "final" / "horizon.jsonl"))
    assert "holds a run that does not take its decisions from" in said
    for path in (folder, folder / "none.jsonl"):
        code, _, error = run(folder, "--replay", str(path))
        assert (code, "is no file; name the horizon.jsonl in the folder final" in error) == (2, True)


def test_decisions_that_cannot_be_replayed_are_refused(folder: Path, done: Path) -> None:
    path = done / "final" / "clock.json"
    code, _, error = run(folder, "--replay", os.path.relpath(path, "/"))  # from where it is started
    assert code == 2
    assert error.startswith(f"final_run: {path} ")
    assert "has no decisions of a run that was made to its end; name the horizon.jsonl of one" in error
    assert not (folder / "final" / "clock.json").exists()


def test_a_damaged_file_of_decisions_is_told_by_the_status(folder: Path) -> None:
    (folder / "final").mkdir()
    (folder / "final" / "horizon.jsonl").write_text('{"step": 1}\n')
    for event in ({"event": "data"}, {"event": "step", "step": 1, "loss": 1.0, "seconds": 1.0}):
        RunDir(folder / "final").append_event(event)
    assert "is damaged" in refused(folder, "--status")


@pytest.mark.parametrize(("name", "text"), [("result.json", '{"scores": '), ("recipe.json", "{}"), ("recipe.json", "")])
def test_a_cut_file_of_the_run_is_told_without_a_traceback(folder: Path, name: str, text: str) -> None:
    (folder / "final").mkdir()
    (folder / "final" / name).write_text(text)
    assert f"{name} is damaged, or of another version" in refused(folder, "--status")


def lacking(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of all fields of an object, of those within it, and of those within these."""
    for name in value if isinstance(value, dict) and len(path) < 3 else ():
        yield (*path, name)
        yield from lacking(value[name], (*path, name))


def test_a_result_that_lacks_a_field_is_told_or_tells_the_rest(done: Path, folder: Path) -> None:
    shutil.copytree(done / "final", folder / "final", dirs_exist_ok=True)
    result, refusals = RunDir(folder / "final").result, list[str]()
    whole = read_json(result)
    assert whole is not None
    source = importlib.util.spec_from_file_location("frozen_one", folder / "final_run.py")
    assert source is not None
    assert source.loader is not None
    source.loader.exec_module(frozen_one := importlib.util.module_from_spec(source))
    for path in lacking(whole):
        result.write_text(json.dumps(without(whole, path)))
        try:
            assert "IFEval" in taken(result, frozen_one.summary)
        except Damaged as error:
            refusals.append(str(error))
    assert len(refusals) > 20
    assert all(refusal.startswith(f"{result} is damaged, or of another version (") for refusal in refusals)
    write_json(result, without(whole, ("merged",)))
    said = f"{result} is damaged, or of another version (it has no 'merged'): put the whole file back, or move it away"
    assert f"{said} and start again to score anew" in refused(folder, "--status")
    assert said in refused(folder)


def without(value: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    name, *rest = path
    if rest:
        return {**value, name: without(value[name], tuple(rest))}
    return {key: kept for key, kept in value.items() if key != name}


def test_a_folder_with_the_run_of_another_recipe_is_refused(folder: Path, world: made_study.MadeStudy) -> None:
    other = RunDir(world.folder / "runs" / "base").recipe().model_copy(update={"rank": 64})
    RunDir(folder / "final").create(other)
    assert "holds the run of another recipe; move it away: mv " in refused(folder)
