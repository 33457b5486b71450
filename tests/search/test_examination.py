"""How a worker asks a real model: stage by stage, on the search half alone, going on after a kill."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

from objectives import ifeval, subset
from objectives.generate import Generator
from objectives.score import ObjectiveError
from search import split
from search.examination import Examined, examine
from train.rundir import RunDir

SUBSET, STAGE = 12, 8


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tiny model with its tokenizer; random weights follow no quotation, and hardly ever write a comma."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny.write_model(tmp_path_factory.mktemp("model"))
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    """What a trial's job asks, before any other trial is complete."""
    tiny.write_prompts(tmp_path / "both.jsonl", 32)
    half = subset.halves(ifeval.load_prompts(tmp_path / "both.jsonl"))[0]
    path = split.keep(tmp_path, half)
    return {
        "prompts": str(path),
        "prompts_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "subset": SUBSET,
        "stages": [STAGE],
        "error_rate": 0.1,
        "decided_rows": True,
        "max_new_tokens": 8,
        "batch_size": 4,
        "earlier": {},
        "incumbent": None,
    }


def examined(
    model: Any, job: dict[str, Any], folder: Path, before_batch: Callable[[], None] = lambda: None
) -> Examined:
    run = RunDir(folder / "run")
    run.path.mkdir(exist_ok=True)
    generator = Generator(*model, None, job["max_new_tokens"], job["batch_size"], before_batch)
    return examine(job, generator, run.answers, {"model": "tiny"})


def reference(job: dict[str, Any]) -> list[int]:
    return [prompt.key for prompt in subset.take(ifeval.load_prompts(job["prompts"]), SUBSET)]


def against(job: dict[str, Any], followed: bool) -> dict[str, Any]:
    """The job of a trial after trial 3, which followed every prompt or none."""
    return {**job, "earlier": {"3": {str(key): [int(followed), 5] for key in reference(job)}}, "incumbent": 3}


def test_the_first_trial_is_asked_the_whole_reference_set(model: Any, job: dict[str, Any], tmp_path: Path) -> None:
    found = examined(model, job, tmp_path)
    assert [prompt.key for prompt in found.prompts] == reference(job)
    assert (len(found.answers), found.behind, found.value) == (SUBSET, None, found.score.value)
    assert found.score.prompts_sha256 == ifeval.prompts_sha256(found.prompts)
    assert [sample["key"] for sample in found.samples()] == reference(job)


def test_only_strict_verdicts_are_worth_a_whole_answer(model: Any, job: dict[str, Any], tmp_path: Path) -> None:
    decided = examined(model, job, tmp_path)
    whole = examined(model, {**job, "decided_rows": False}, tmp_path)
    assert [v.followed for v in decided.score.verdicts] == [v.followed for v in whole.score.verdicts]
    assert whole.score.prompt_loose is not None
    assert decided.score.tokens <= whole.score.tokens


def test_a_trial_that_is_far_behind_is_asked_no_more(model: Any, job: dict[str, Any], tmp_path: Path) -> None:
    path = Path(job["prompts"])
    path.write_text(path.read_text().replace("punctuation:no_comma", "startend:quotation"))
    job["prompts_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    found = examined(model, against(job, followed=True), tmp_path)
    assert (found.behind, len(found.prompts), len(found.answers), found.score.prompt_strict.n) == (3, *[STAGE] * 3)
    assert found.value < 1.0
    assert len(found.samples()) == STAGE


def test_a_trial_that_is_not_behind_is_asked_everything(model: Any, job: dict[str, Any], tmp_path: Path) -> None:
    found = examined(model, against(job, followed=False), tmp_path)
    assert (found.behind, len(found.answers), found.value) == (None, SUBSET, found.score.value)


class Killed(Exception):
    pass


def test_a_kill_loses_only_what_was_being_answered_and_changes_nothing(
    model: Any, job: dict[str, Any], tmp_path: Path
) -> None:
    job = {**against(job, followed=False), "batch_size": 1}  # so that answers are kept four by four
    (tmp_path / "other").mkdir()
    calls: list[str] = []
    uninterrupted = examined(model, job, tmp_path / "other", lambda: calls.append("whole"))
    run = RunDir(tmp_path / "run")

    def kill_in_the_second_stage() -> None:
        if run.answers(0).exists() and len(run.answers(0).read_text().splitlines()) == 1 + STAGE // 4:
            raise Killed

    with pytest.raises(Killed):
        examined(model, job, tmp_path, kill_in_the_second_stage)
    assert run.kept_answers() == [run.answers(0)]
    resumed = examined(model, job, tmp_path, lambda: calls.append("resumed"))
    assert 0 < calls.count("resumed") < calls.count("whole")
    assert resumed.answers == uninterrupted.answers
    assert resumed.score.verdicts == uninterrupted.score.verdicts
    assert resumed.value == uninterrupted.value
    assert run.kept_answers() == [run.answers(0), run.answers(STAGE)]


def test_other_prompts_than_the_job_s_are_refused(model: Any, job: dict[str, Any], tmp_path: Path) -> None:
    path = Path(job["prompts"])
    path.write_text(path.read_text() + "\n")
    with pytest.raises(ObjectiveError, match=r"prompts\.jsonl is not what the service wrote .*`nightshift start`"):
        examined(model, job, tmp_path)
    path.unlink()
    with pytest.raises(ObjectiveError, match="there is no such file"):
        examined(model, job, tmp_path)
