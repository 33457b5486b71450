"""What the worker writes down when a run comes to nothing, and whether it may take another one."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from objectives.score import ObjectiveError
from search import worker, worker_faults
from search.worker import BROKEN, Worker
from train.recipe import Base, Recipe, RecipeError, Source
from train.rundir import RunDir, read_json, write_json
from train.stage import OutOfMemory, TrainingFailed

NAN = TrainingFailed(
    "loss nan with gradient norm nan at step 3 of 100 (sft), learning rate 0.1: lower the learning rate"
)


@pytest.mark.parametrize(
    ("error", "reason", "code"),
    [
        (NAN, f"TrainingFailed: {NAN}", 0),  # the base model is as it was
        (OutOfMemory("out of memory after step 3"), "OutOfMemory: out of memory after step 3", BROKEN),
        (torch.OutOfMemoryError("CUDA out of memory."), "OutOfMemoryError: CUDA out of memory.", BROKEN),
        (RuntimeError("CUDA error: unspecified launch failure"), "RuntimeError: CUDA error: unspecified", BROKEN),
    ],
)
def test_a_failure_is_recorded_with_its_reason_and_only_a_clean_one_keeps_the_process(
    error: Exception, reason: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    run = RunDir(tmp_path / "000")
    run.path.mkdir()
    write_json(run.job, {"attempt": 7, "kind": "trial"})
    write_json(run.lease, {"attempt": 7, "paid_until": 1e12})
    monkeypatch.setattr(RunDir, "recipe", lambda self: SimpleNamespace(base=None))
    monkeypatch.setattr(worker.Worker, "_trial", fail)
    assert Worker(tmp_path, "token", "cpu", loaded=SimpleNamespace())._attempt(run, 7) == code  # type: ignore[arg-type]
    result = read_json(run.result)
    assert result is not None
    assert (result["attempt"], result["outcome"], result["broken"]) == (7, "failed", code == BROKEN)
    assert result["reason"].startswith(reason)


FULL = TrainingFailed("the checkpoint of step 25 cannot be written")
FULL.__cause__ = OSError("adapter.safetensors: I/O error: No space left on device (os error 28)")
SOURCE = Source(name="clean", path="nowhere.jsonl", use="sft")


@pytest.mark.parametrize(
    ("kind", "error", "loaded", "unfit"),
    [
        ("trial", OSError(errno.ENOSPC, "No space left on device"), True, True),
        ("trial", FileNotFoundError(errno.ENOENT, "No such file or directory"), True, True),
        ("trial", FULL, True, True),
        ("fresh", OSError(errno.EIO, "Input/output error"), True, True),
        ("fresh", FileNotFoundError(errno.ENOENT, "No such file or directory"), True, False),  # this trial's adapter
        ("trial", RecipeError("data source 'clean' is not the data that was pinned"), True, True),  # it is nowhere now
        ("trial", ObjectiveError("prompts.jsonl is not the file that was pinned"), True, True),
        ("trial", RuntimeError("CUDA driver version is insufficient"), False, True),  # while the base model loads
        ("trial", RuntimeError("CUDA error: unspecified launch failure"), True, False),
    ],
)
def test_what_would_fail_every_recipe_ends_no_trial(
    kind: str, error: Exception, loaded: bool, unfit: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    run = RunDir(tmp_path / "000")
    run.path.mkdir()
    write_json(run.job, {"attempt": 7, "kind": kind})
    write_json(run.lease, {"attempt": 7, "paid_until": 1e12})
    monkeypatch.setattr(RunDir, "recipe", lambda self: SimpleNamespace(base=None, sources=(SOURCE,)))
    monkeypatch.setattr(worker.Worker, f"_{kind}", fail)
    kept = Worker(tmp_path, "token", "cpu", loaded=SimpleNamespace() if loaded else None)  # type: ignore[arg-type]
    assert kept._attempt(run, 7) == (0 if isinstance(error, TrainingFailed) else BROKEN)
    result = read_json(run.result)
    assert result is not None
    assert (result["outcome"], result.get("unfit", False)) == ("stopped" if unfit else "failed", unfit)
    assert result["reason"] == f"{type(error).__name__}: {error}"


def test_a_run_that_leaves_its_tensors_behind_costs_the_process_and_not_its_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[torch.Tensor] = []

    def trial(*_: object) -> dict[str, str]:
        left.append(torch.zeros(20 * 2**20, dtype=torch.uint8))
        looped: list[object] = [torch.zeros(100 * 2**20, dtype=torch.uint8)]
        looped.append(looped)  # which the collector will find: no leak
        return {"outcome": "completed", "reason": ""}

    monkeypatch.setattr(RunDir, "recipe", lambda self: SimpleNamespace(base=None))
    monkeypatch.setattr(Worker, "_trial", trial)
    monkeypatch.setattr(Worker, "_discard", lambda *_: None)
    device = torch.device("cpu")
    kept = Worker(tmp_path, "token", "cpu", loaded=SimpleNamespace(device=device))  # type: ignore[arg-type]
    codes = []
    for attempt in range(1, 6):
        run = RunDir(tmp_path / f"{attempt:03d}")
        run.path.mkdir()
        write_json(run.job, {"attempt": attempt, "kind": "trial"})
        write_json(run.lease, {"attempt": attempt, "paid_until": 1e12})
        codes.append(kept._attempt(run, attempt))
        result = read_json(run.result)
        assert result is not None
        assert (result["outcome"], result["broken"]) == ("completed", codes[-1] == BROKEN)
    assert codes == [0, 0, 0, 0, BROKEN]  # 20 MiB each, of which the first is no leak yet


def test_a_recipe_s_own_fault_is_its_own_where_the_data_are_there(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "A?", "response": "B."}) + "\n")
    source = Source(name="clean", path=str(tmp_path / "rows.jsonl"), use="sft")
    recipe = Recipe(base=Base(model="tiny"), sources=(source,), examples=16)
    error = RecipeError("rank is more than the model has")
    assert not worker_faults.unfit("trial", recipe, error)
    (tmp_path / "rows.jsonl").unlink()
    assert worker_faults.unfit("trial", recipe, error)
