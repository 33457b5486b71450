"""A final evaluation: both halves and all of them, with answers that survive an interruption."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from objectives.evaluation import evaluate
from objectives.ifeval import IFEval, load_prompts
from objectives.score import Answer, ObjectiveError
from objectives.subset import halves


class Answers:
    """Follows the no-comma prompts and not the quotation ones; counts what it is asked."""

    def __init__(self, fail_at: int = -1) -> None:
        self.asked: list[list[str]] = []
        self._fail_at = fail_at

    def __call__(self, prompts: list[str]) -> list[Answer]:
        if len(self.asked) == self._fail_at:
            raise KeyboardInterrupt
        self.asked.append(prompts)
        return [Answer(text=f"to {prompt}", tokens=3, capped=False) for prompt in prompts]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    tiny.write_prompts(path, 24)
    return path


def test_all_parts_are_scored_from_one_set_of_answers(prompts: Path, tmp_path: Path) -> None:
    generate = Answers()
    scores, samples = evaluate(prompts, generate, tmp_path / "answers", lambda _: None)

    search, sealed = halves(load_prompts(prompts))
    assert generate.asked == [[p.prompt for p in search], [p.prompt for p in sealed]]
    assert list(scores) == ["search", "sealed", "all"]
    assert [score.prompt_strict.n for score in scores.values()] == [12, 12, 24]
    assert scores["all"].prompt_strict.value == pytest.approx(0.5)
    assert scores["all"].verdicts == scores["search"].verdicts + scores["sealed"].verdicts
    assert [sample["key"] for sample in samples] == [p.key for p in search + sealed]
    direct = IFEval(sealed).score(Answers())
    assert scores["sealed"].model_copy(update={"seconds": 0.0}) == direct.model_copy(update={"seconds": 0.0})


def test_answers_that_were_made_are_not_asked_for_again(prompts: Path, tmp_path: Path) -> None:
    first = Answers(fail_at=1)
    with pytest.raises(KeyboardInterrupt):
        evaluate(prompts, first, tmp_path / "answers", lambda _: None)
    second, third, lines = Answers(), Answers(), list[str]()
    scores, _ = evaluate(prompts, second, tmp_path / "answers", lines.append)
    assert len(second.asked) == 1
    assert lines == ["12 prompts of the half that it never saw"]
    again, _ = evaluate(prompts, third, tmp_path / "answers", lines.append)
    assert third.asked == []
    assert {part: s.verdicts for part, s in again.items()} == {part: s.verdicts for part, s in scores.items()}


@pytest.mark.parametrize("spoilt", ["", "{", '{"answers": []}'])
def test_half_a_file_is_made_anew(prompts: Path, tmp_path: Path, spoilt: str) -> None:
    evaluate(prompts, Answers(), tmp_path / "answers", lambda _: None)
    (tmp_path / "answers-search.json").write_text(spoilt)
    generate = Answers()
    evaluate(prompts, generate, tmp_path / "answers", lambda _: None)
    assert len(generate.asked) == 1


def test_answers_to_other_prompts_are_not_taken(prompts: Path, tmp_path: Path) -> None:
    evaluate(prompts, Answers(), tmp_path / "answers", lambda _: None)
    tiny.write_prompts(prompts, 26)
    generate = Answers()
    scores, _ = evaluate(prompts, generate, tmp_path / "answers", lambda _: None)
    assert len(generate.asked) == 2
    assert scores["all"].prompt_strict.n == 26


def test_prompts_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    with pytest.raises(ObjectiveError, match="does not exist"):
        evaluate(tmp_path / "none.jsonl", Answers(), tmp_path / "answers", lambda _: None)
