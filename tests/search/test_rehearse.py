"""The rehearsal's steps, on a world that is there already: search, freeze, final run and report are the real ones."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from typer.testing import CliRunner

from search import home
from search.cli import GO_ON, app
from train.rehearsal import make_world

FILES = ["report.html", "report.md", "final_run.py", "final/adapter/adapter_model.safetensors"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A rehearsal whose world is made and whose study is the tiny one."""
    tiny.write_study(tmp_path, name="rehearsal", trials=1, examples=16, final_hours=0.05)
    make_world(tmp_path / "world", 0, steps=1)
    return tmp_path


def ended_at(text: str, place: Path) -> tuple[int, str]:
    """Rehearse in a process of its own, have it end once it has said `text`; its exit code and its last words."""
    command = [sys.executable, "-m", "search.cli", "rehearse", "--home", str(place)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as running:
        assert running.stdout is not None
        while text not in (line := running.stdout.readline()):
            assert line, text
        running.send_signal(signal.SIGTERM)
        _, said = running.communicate(timeout=120)
        return running.returncode, said.splitlines()[-1]


def test_somebody_s_own_study_is_no_rehearsal(tmp_path: Path) -> None:
    tiny.write_study(tmp_path, name="mine")
    before = sorted(tmp_path.rglob("*"))
    answer = CliRunner().invoke(app, ["rehearse", "--home", str(tmp_path)])
    assert answer.exit_code == 2
    assert "is the study 'mine', not a rehearsal; rehearse in another folder than" in answer.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_an_interrupted_rehearsal_goes_on_and_shows_what_came_out(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ended_at("trial 0 started", place) == (143, GO_ON)
    folder = place / "studies" / "rehearsal"
    assert not (folder / "final_run.py").exists()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    answer = CliRunner().invoke(app, ["rehearse", "--home", str(place)])
    assert answer.exit_code == 0, answer.output
    assert all((folder / name).exists() for name in FILES)
    for row in ("base model", "best trial (0)", "final run"):
        line = next(line for line in answer.stdout.splitlines() if row in line and "│" in line)
        assert re.search(r"\d\.\d{3}(, [≤≥]| ±) 0\.\d{3} ", line), line
    assert answer.stdout.rstrip().endswith("nightshift init --preset rtx-4070-ti")
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    again = CliRunner().invoke(app, ["rehearse", "--home", str(place)])
    assert again.stdout.count("(done before)") == 5
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")} == written


def test_a_rehearsal_of_another_seed_is_left_alone(tmp_path: Path) -> None:
    make_world(tmp_path / "world", 4, steps=1)
    before = sorted(tmp_path.rglob("*"))
    answer = CliRunner().invoke(app, ["rehearse", "--home", str(tmp_path), "--seed", "5"])
    assert answer.exit_code == 2
    assert f"{tmp_path} holds the rehearsal of seed 4; go on with --seed 4, or rehearse in another" in answer.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_the_preset_names_one_seed_that_a_rehearsal_can_replace() -> None:
    seeds = [line for line in home.preset("rehearsal").splitlines() if line.startswith("seed = ")]
    assert len(seeds) == 1
    assert seeds[0].startswith("seed = 0 ")
