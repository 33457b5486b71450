"""The worker's process: whose code it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.launcher import Worker


def test_folders_named_like_ours_in_the_working_folder_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("search", "train", "objectives"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('this is not Nightshift')")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    worker = Worker.start(tmp_path / "runs", tmp_path / "log", threads=1, device="cpu")
    worker.assign("none", 1)  # a run that is not there, at which our worker ends
    worker.how_it_ended()
    said = (tmp_path / "log").read_text()
    assert "not Nightshift" not in said
    assert f"AssertionError: {tmp_path / 'runs' / 'none' / 'job.json'}" in said


def test_a_worker_that_never_had_an_assignment_ends_when_it_is_told_to(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    worker = Worker.start(tmp_path / "runs", tmp_path / "log", threads=1, device="cpu")
    worker.quit()
    assert worker.how_it_ended() == "exit code 0"
