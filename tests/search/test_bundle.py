"""`nightshift bundle`: a real final run packed, unpacked elsewhere and made again by its reproduce.sh, with this
environment in the place of a fresh one; its bytes; nasty names; and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import made_study
import pytest
from typer.testing import CliRunner

from search import (
    bundle,
    bundle_archive,
    bundle_inputs,
    bundle_wheel,
    export_subject,
    freeze,
    freeze_file,
    reproduced,
)
from search.cli import app
from search.errors import SearchError
from search.scratch import scratch
from train import room
from train.recipe import Base, Recipe, Source
from train.rundir import read_json, write_json

NASTY = "a b;$(touch pwned)`touch pwned`'\"|&<x>"
WEIGHTS = "adapter/adapter_model.safetensors"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study with a final run that was really made, in a folder with a nasty name. Not to be changed.

    The licence of one data set does not let it be passed on, as far as is known.
    """
    root = tmp_path_factory.mktemp("bundled") / NASTY
    file = made_study.write_study_file(root, examples=160, final_hours=0.2)
    text = file.read_text().replace('chat = "CC0-1.0"', """chat = "mine`touch pwned`$(touch pwned)'|<b>" """.strip())
    file.write_text(text)
    made = made_study.MadeStudy(file, root / "studies" / "tiny", states="CC")
    freeze.freeze(made.config, made.folder)
    ran = subprocess.run(
        [sys.executable, str(made.folder / "final_run.py")], cwd="/", env=ENVIRONMENT, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return made.folder


@pytest.fixture(scope="module")
def packed(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> bundle.Bundled:
    out = tmp_path_factory.mktemp("packed") / "run.tar.gz"
    return bundle.bundle(finished, out, merged=False)


@pytest.fixture
def unpacked(packed: bundle.Bundled, tmp_path: Path) -> Path:
    """The bundle in a folder of its own, with this environment in the place of the one that reproduce.sh would build,
    and Nightshift out of the bundle's wheel."""
    with tarfile.open(packed.path) as archive:
        archive.extractall(tmp_path, filter="data")
    folder = tmp_path / "tiny-bundle"
    program = folder / ".venv" / "bin" / "python"
    program.parent.mkdir(parents=True)
    (wheel,) = (folder / "wheel").iterdir()
    shutil.unpack_archive(wheel, folder / ".venv" / "code", "zip")
    code = shlex.quote(str(folder / ".venv" / "code"))
    program.write_text(f'#!/bin/sh\nPYTHONPATH={code} exec {shlex.quote(sys.executable)} "$@"\n')
    program.chmod(0o755)
    (folder / ".venv" / "made").touch()
    return folder


def reproduce(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**ENVIRONMENT, "PYTHON": sys.executable}
    command = ["bash", str(folder / "reproduce.sh"), *arguments]
    return subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=False)


def put_what_is_missing(folder: Path, finished: Path) -> None:
    shutil.copy(finished.parents[1] / "chat.jsonl", folder / "inputs" / "data" / "chat.jsonl")


@pytest.mark.timeout(900)
def test_a_bundle_is_made_again_bit_for_bit(finished: Path, unpacked: Path) -> None:
    refused = reproduce(unpacked)
    assert refused.returncode == 2
    assert (
        "./inputs/data/chat.jsonl is missing: not in the bundle (its licence is not one that is known" in refused.stderr
    )
    put_what_is_missing(unpacked, finished)
    again = reproduce(unpacked)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "reproduced: the adapter is the same, bit for bit" in again.stdout
    assert (unpacked / "final" / WEIGHTS).read_bytes() == (finished / "final" / WEIGHTS).read_bytes()
    held = read_json(unpacked / "final" / "result.json")
    assert held is not None
    assert held["merged"]["agreement"]["texts"]["n"] == 24
    (unpacked / "final" / WEIGHTS).write_bytes(b"other")
    other = reproduce(unpacked)
    assert other.returncode == 1
    assert "not reproduced: the same machine and packages gave another adapter" in other.stdout
    assert not list(unpacked.rglob("pwned"))


def test_a_bundle_holds_what_a_grader_needs(packed: bundle.Bundled, unpacked: Path, finished: Path) -> None:
    there = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert there >= {
        *("README.md", "SHA256SUMS", "final_run.py", "final_run.lock.json", "reproduce.sh", "requirements.txt"),
        *("inputs/manifest.json", "inputs/prompts.jsonl", "inputs/data/plain.jsonl", "inputs/base/model.safetensors"),
        *("record/result.json", "record/samples.jsonl", "record/horizon.jsonl", "record/events.jsonl"),
        *("report/report.html", "report/report.md", "report/report.pdf", "adapter/README.md", WEIGHTS),
    }
    assert "inputs/data/chat.jsonl" not in there
    assert packed.not_in_it[0].startswith("chat: not in the bundle (its licence")
    readme = (unpacked / "README.md").read_text()
    assert "| final_run.py, final_run.lock.json |" in readme
    assert re.search(r"of 24 prompts, judged strictly; the base model's is \d\.\d{3}", readme)
    assert re.search(r"\| time \| \d+\.\d s of training on as fast a machine", readme)
    assert "| a network | for packages |" in readme
    assert "--replay 'record/horizon.jsonl'" in (unpacked / "report" / "report.md").read_text()
    told = ("report/report.html", "report/report.md")
    for name in ("final_run.py", "final_run.lock.json", "record/horizon.jsonl", "adapter/adapter_config.json", *told):
        text = (unpacked / name).read_text()
        assert str(finished.parents[2]) not in text, name
    assert (
        f"torch=={read_json(finished / 'final_run.lock.json')['packages']['torch']['version']}"
        in (  # type: ignore[index]
            unpacked / "requirements.txt"
        )
        .read_text()
        .splitlines()
    )


def test_the_manifest_says_how_to_come_by_everything(unpacked: Path) -> None:
    manifest = {one["name"]: one for one in json.loads((unpacked / "inputs" / "manifest.json").read_text())}
    assert set(manifest) == {"base", "plain", "chat", "pairs", "prompts"}
    assert manifest["base"]["licence"]["licence"] == "MIT"
    assert (manifest["plain"]["in_the_bundle"], manifest["chat"]["in_the_bundle"]) == (True, False)
    digest = hashlib.sha256((unpacked / "inputs/data/plain.jsonl").read_bytes()).hexdigest()
    assert manifest["plain"]["sha256"] == digest
    assert manifest["chat"]["access"].endswith(
        f"put it to ./inputs/data/chat.jsonl; its SHA-256 is {manifest['chat']['sha256']}"
    )


def test_the_same_study_gives_the_same_bytes(finished: Path, packed: bundle.Bundled, tmp_path: Path) -> None:
    again = bundle.bundle(finished, tmp_path / "again.tar.gz", merged=False)
    assert again.path.read_bytes() == packed.path.read_bytes()
    assert not list(finished.glob(".nightshift-bundle-*"))


def test_sums_of_all_files_are_checked(unpacked: Path) -> None:
    with open(unpacked / "record" / "samples.jsonl", "a") as file:
        file.write("{}\n")
    refused = reproduce(unpacked)
    assert refused.returncode == 2
    assert "these files are not as they were packed" in refused.stderr
    assert "record/samples.jsonl" in refused.stdout + refused.stderr


def test_another_python_is_refused_unless_it_is_meant(unpacked: Path, finished: Path) -> None:
    put_what_is_missing(unpacked, finished)
    sums = (unpacked / "SHA256SUMS").read_text().splitlines()
    (unpacked / "python-version.txt").write_text("3.99.0\n")
    (unpacked / "SHA256SUMS").write_text("".join(f"{line}\n" for line in sums if "python-version" not in line))
    refused = reproduce(unpacked)
    assert refused.returncode == 2
    assert "the run was made with Python 3.99.0" in refused.stderr
    assert reproduce(unpacked, "--no-such-option").returncode == 2


def test_merged_weights_and_what_is_asked_for_are_carried(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged.tar.gz"
    made = CliRunner().invoke(app, ["bundle", str(finished), "--merged", "--carry", "chat", "--out", str(out)])
    assert made.exit_code == 0, made.output
    with tarfile.open(out) as archive:
        names = archive.getnames()
    assert {"tiny-bundle/merged/model.safetensors", "tiny-bundle/inputs/data/chat.jsonl"} <= set(names)
    assert names == sorted(names)
    assert {path.name for path in tmp_path.iterdir()} == {"merged.tar.gz"}


# What is refused


@pytest.fixture
def study(finished: Path, tmp_path: Path) -> Path:
    """A copy of the study that a test may spoil."""
    return Path(shutil.copytree(finished, tmp_path / "studies" / "tiny"))


def test_an_archive_that_is_there_is_left(finished: Path, packed: bundle.Bundled) -> None:
    with pytest.raises(SearchError, match=r"is there already: give another name with --out, or remove it: rm "):
        bundle.bundle(finished, packed.path, merged=False)


def test_a_place_where_no_archive_can_be_made_is_told(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(
        SearchError, match=r"is a folder, and --out names the archive's file: --out .*/tiny-bundle.tar.gz"
    ):
        bundle.bundle(finished, tmp_path, merged=False)
    (tmp_path / "file").touch()
    with pytest.raises(SearchError, match=r"b\.tgz cannot be made \(.+\); give another place with --out"):
        bundle.bundle(finished, tmp_path / "file" / "b.tgz", merged=False)


def test_the_command_tells_what_of_the_report_is_to_be_filled_in(study: Path, tmp_path: Path) -> None:
    made = CliRunner().invoke(app, ["bundle", str(study), "--out", str(tmp_path / "b.tgz")])
    assert made.exit_code == 0, made.output
    said = " ".join(made.output.split())
    assert "its report has places to fill in: authors, base_model" in said
    assert "and make the bundle again" in said


def test_the_archives_folder_is_made_and_what_a_kill_left_is_removed(study: Path, tmp_path: Path) -> None:
    left = study / ".nightshift-bundle-left"
    (left / "merged").mkdir(parents=True)
    told: list[str] = []
    made = bundle.bundle(study, tmp_path / "no" / "where" / "b.tgz", merged=False, say=told.append)
    assert made.path.is_file()
    assert not left.exists()
    assert told[0].startswith("packing ")


def test_a_folder_that_a_process_holds_is_left(tmp_path: Path) -> None:
    with scratch(tmp_path, ".made-") as first, scratch(tmp_path, ".made-") as second:
        assert first.exists()
        assert second.exists()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["{", "[]", '{"scores": {"all": 3}}', "{}"])
def test_a_damaged_result_is_told(study: Path, tmp_path: Path, content: str) -> None:
    (study / "final" / "result.json").write_text(content)
    with pytest.raises(SearchError, match=r"result\.json .*put the file back from a copy, or make the run again"):
        bundle.bundle(study, tmp_path / "out.tar.gz", merged=False)


@pytest.mark.parametrize("name", ["examples", "steps", "seconds", "scores"])
def test_a_result_that_lacks_what_the_bundle_tells_is_told(study: Path, tmp_path: Path, name: str) -> None:
    held = read_json(study / "final" / "result.json")
    assert held is not None
    write_json(study / "final" / "result.json", {key: value for key, value in held.items() if key != name})
    with pytest.raises(SearchError, match=r"result\.json .*put the file back from a copy, or make the run again"):
        bundle.bundle(study, tmp_path / "out.tar.gz", merged=False)


def test_carrying_what_is_not_read_is_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(SearchError, match=r"--carry pears: .+: base, plain, chat, pairs, prompts"):
        bundle.bundle(finished, tmp_path / "out.tar.gz", merged=False, carry=["pears"])


def test_a_run_that_is_not_scored_yet_is_refused(study: Path, tmp_path: Path) -> None:
    (study / "final" / "result.json").unlink()
    with pytest.raises(SearchError, match="not trained to its end: go on with it"):
        bundle.bundle(study, tmp_path / "out.tar.gz", merged=False)


def test_another_nightshift_than_the_one_that_froze_is_refused(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from train import environment

    other = {**environment.packages()}
    other["nightshift"] = other["nightshift"].model_copy(update={"sha256": "0" * 64})
    monkeypatch.setattr(environment, "packages", lambda: other)
    with pytest.raises(SearchError, match="has other code than the one that froze the run"):
        bundle.bundle(finished, tmp_path / "out.tar.gz", merged=False)


def test_a_run_that_was_frozen_anew_is_refused(study: Path, tmp_path: Path) -> None:
    recipe = study / "final" / "recipe.json"
    write_json(recipe, {**(read_json(recipe) or {}), "rank": 2})
    with pytest.raises(SearchError, match="was frozen anew after the run"):
        bundle.bundle(study, tmp_path / "out.tar.gz", merged=False)


def test_an_edited_file_is_refused(study: Path, tmp_path: Path) -> None:
    with open(study / "final_run.py", "a") as file:
        file.write("print()\n")
    with pytest.raises(SearchError, match="was edited since it was frozen, or is another version's: put back the file"):
        bundle.bundle(study, tmp_path / "out.tar.gz", merged=False)


def test_missing_records_and_a_small_disk_are_told(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (study / "final" / "horizon.jsonl").rename(tmp_path / "kept")
    with pytest.raises(SearchError, match=r"horizon.jsonl is missing"):
        bundle.bundle(study, tmp_path / "out.tar.gz", merged=False)
    (tmp_path / "kept").rename(study / "final" / "horizon.jsonl")
    monkeypatch.setattr(room, "SPARE", 2**60)
    with pytest.raises(Exception, match=r"are needed in .+ more than are free"):
        bundle.bundle(study, tmp_path / "out.tar.gz", merged=True)
    assert not (tmp_path / "out.tar.gz").exists()


# Its parts


def test_an_archive_has_no_times_and_no_owners(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("bee")
    bundle_archive.write(tmp_path / "one.tar.gz", "top", {"z.sh": b"echo", "a/b": tmp_path / "b"})
    os.utime(tmp_path / "b", (1, 1))
    bundle_archive.write(tmp_path / "two.tar.gz", "top", {"a/b": tmp_path / "b", "z.sh": b"echo"})
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()
    with tarfile.open(tmp_path / "one.tar.gz") as archive:
        assert archive.getnames() == ["top/SHA256SUMS", "top/a/b", "top/z.sh"]
        assert {(one.uid, one.gid, one.uname, one.mtime) for one in archive} == {(0, 0, "", bundle_archive.THEN)}
        assert [oct(one.mode) for one in archive] == ["0o644", "0o644", "0o755"]


def test_the_wheel_is_one_that_pip_installs(tmp_path: Path) -> None:
    name, content = bundle_wheel.wheel()
    assert bundle_wheel.wheel() == (name, content)
    (tmp_path / name).write_bytes(content)
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(tmp_path / "there")]
    subprocess.run([*install, str(tmp_path / name)], check=True, capture_output=True)
    asked = "import train.environment as e; print(e.__file__); print(e.package('nightshift').sha256)"
    told = subprocess.run(
        [sys.executable, "-c", asked], env={**os.environ, "PYTHONPATH": str(tmp_path / "there")}, cwd=tmp_path,
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    from train import environment

    ours = environment.package("nightshift")
    assert ours is not None
    assert told == [str(tmp_path / "there" / "train" / "environment.py"), ours.sha256]
    assert (tmp_path / "there" / "search" / "templates" / "reproduce.sh").exists()


def test_the_tolerance_is_that_of_paired_differences() -> None:
    assert reproduced.standard_error(9, 16, 100) == pytest.approx(0.05)
    assert reproduced.standard_error(0, 0, 100) == 0.0


# What is carried


def test_what_a_hub_has_is_named_and_not_carried(finished: Path) -> None:
    subject = export_subject.find(str(finished))
    hub = Base(model="me/base", revision="a" * 40)
    source = Source(name="chat", hub="me/data", revision="b" * 40)
    recipe = subject.recipe.model_copy(update={"base": hub, "sources": (source,), "dpo_share": 0.0})
    facts = subject.model.facts.model_copy(update={"revision": "a" * 40})
    subject = replace(subject, recipe=recipe, model=replace(subject.model, facts=facts))
    objective = {"prompts": str(finished.parents[1] / "prompts.jsonl"), "prompts_sha256": "c" * 64}
    found = bundle_inputs.inputs(subject, finished, objective, ())
    assert {one.name: one.place for one in found} == {"base": None, "chat": None, "prompts": "./inputs/prompts.jsonl"}
    assert [one.manifest["revision"] for one in found[:2]] == ["a" * 40, "b" * 40]
    assert not found[0].files
    assert "fetches it from the hub by id and commit" in found[0].access
    placed = bundle_inputs.portable({"recipe": recipe.model_dump(mode="json")}, finished, found)
    assert Recipe.model_validate_json(json.dumps(placed["recipe"])) == recipe


def test_a_heavy_file_is_carried_only_when_that_is_asked_for(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_inputs, "LIGHT", 10)
    subject, objective = (
        export_subject.find(str(finished)),
        freeze_file.constant(finished / "final_run.py")["objective"],
    )
    found = {one.name: one for one in bundle_inputs.inputs(subject, finished, objective, ["plain"])}
    assert found["base"].access.startswith("not in the bundle (it has ")
    assert (found["plain"].why_not, bool(found["plain"].files)) == ("", True)
    assert found["prompts"].files


def test_a_package_that_pip_would_take_for_an_option_is_refused() -> None:
    lock = {"packages": {"torch": {"version": "2.13.0\n--index-url http://127.0.0.1"}}}
    with pytest.raises(SearchError, match="names a package that cannot be one"):
        list(bundle._requirements(lock))
