"""An evaluation: the halves and all of them, with answers that survive an interruption."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import tiny

from objectives.answers import AnswerLog
from objectives.evaluation import Answered, evaluate
from objectives.ifeval import IFEval, load_prompts
from objectives.score import Answer, ObjectiveError
from objectives.subset import halves


class Answers:
    """Follows the no-comma prompts and not the quotation ones, four at a time; remembers what it had to answer."""

    def __init__(self, fail_at: int = -1, halve: bool = False) -> None:
        self.asked: list[str] = []
        self._fail_at, self._halve = fail_at, halve
        self.too_long = ""

    def check(self, prompts: Sequence[str]) -> None:
        if self.too_long in prompts:
            raise ObjectiveError("too long")

    def __call__(self, prompts: list[str], *, log: AnswerLog | None = None) -> list[Answer]:
        assert log is not None
        answers: list[Answer] = []
        for start in range(0, len(prompts), 4):
            batch = list(range(start, min(start + 4, len(prompts))))
            made = log.get(batch)
            if made is None:
                if len(self.asked) >= self._fail_at >= 0:
                    raise KeyboardInterrupt
                made = [Answer(text=f"to {prompts[i]}", tokens=3, capped=False) for i in batch]
                self.asked += [prompts[i] for i in batch]
                log.halved = log.halved or self._halve
                log.put(batch, made, 0.5)
            answers += made
        return answers


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    tiny.write_prompts(path, 24)
    return path


def test_all_parts_are_scored_from_one_set_of_answers(prompts: Path, tmp_path: Path) -> None:
    generate, lines = Answers(), list[str]()
    scores, samples = evaluate(prompts, generate, tmp_path / "answers", lines.append)

    search, sealed = halves(load_prompts(prompts))
    assert lines == ["12 prompts of the half that the search saw", "12 prompts of the half that it never saw"]
    assert generate.asked == [p.prompt for p in search + sealed]
    assert list(scores) == ["search", "sealed", "all"]
    assert [score.prompt_strict.n for score in scores.values()] == [12, 12, 24]
    assert scores["all"].prompt_strict.value == pytest.approx(0.5)
    assert scores["all"].verdicts == scores["search"].verdicts + scores["sealed"].verdicts
    assert [sample["key"] for sample in samples] == [p.key for p in search + sealed]
    direct = IFEval(sealed).check([Answer(text=f"to {p.prompt}", tokens=3, capped=False) for p in sealed])
    assert scores["sealed"].model_copy(update={"seconds": 0.0}) == direct.model_copy(update={"seconds": 0.0})


def test_one_half_alone_leaves_the_other_unasked(prompts: Path, tmp_path: Path) -> None:
    generate, told = Answers(), list[Answered]()
    scores, samples = evaluate(prompts, generate, tmp_path / "answers", parts=["search"], progress=told.append)
    search, _ = halves(load_prompts(prompts))
    assert (list(scores), len(samples)) == (["search"], 12)
    assert generate.asked == [p.prompt for p in search]
    assert told == [
        Answered(part="search", prompts=12, done=done, tokens=3 * done, seconds=0.5 * done / 4) for done in (4, 8, 12)
    ]


def test_progress_counts_both_halves_together_and_what_an_earlier_start_made_apart(
    prompts: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        evaluate(prompts, Answers(fail_at=16), tmp_path / "answers")
    told, lines = list[Answered](), list[str]()
    evaluate(prompts, Answers(), tmp_path / "answers", lines.append, progress=told.append)
    assert lines == [
        "12 prompts of the half that the search saw, 12 of them answered before",
        "12 prompts of the half that it never saw, 4 of them answered before",
    ]
    assert [(at.part, at.done, at.kept) for at in told] == [
        ("search", 4, 4),
        ("search", 8, 8),
        ("search", 12, 12),
        ("sealed", 16, 16),
        ("sealed", 20, 16),
        ("sealed", 24, 16),
    ]
    assert told[3].tokens == 0
    assert told[-1] == Answered(part="sealed", prompts=24, done=24, kept=16, tokens=24, seconds=1.0)


@pytest.mark.parametrize("count", [1, 3])
def test_all_prompts_need_no_halves(tmp_path: Path, count: int) -> None:
    path = tmp_path / "few.jsonl"
    tiny.write_prompts(path, count)
    generate = Answers()
    scores, samples = evaluate(path, generate, tmp_path / "answers", parts=["all"])
    assert (list(scores), scores["all"].prompt_strict.n, len(samples)) == (["all"], count, count)
    evaluate(path, generate, tmp_path / "answers", parts=["all"])
    assert len(generate.asked) == count
    if count == 1:
        with pytest.raises(ObjectiveError, match="cannot be halved"):
            evaluate(path, generate, tmp_path / "answers")


def test_answers_that_were_made_are_not_asked_for_again_and_cost_what_they_cost(prompts: Path, tmp_path: Path) -> None:
    first, second, third = Answers(fail_at=16), Answers(), Answers()
    with pytest.raises(KeyboardInterrupt):
        evaluate(prompts, first, tmp_path / "answers")
    scores, _ = evaluate(prompts, second, tmp_path / "answers")
    assert (len(first.asked), len(second.asked)) == (16, 8)
    assert scores["all"].seconds >= 6 * 0.5
    again, _ = evaluate(prompts, third, tmp_path / "answers")
    assert third.asked == []
    assert again["sealed"].seconds >= 3 * 0.5
    assert {part: s.verdicts for part, s in again.items()} == {part: s.verdicts for part, s in scores.items()}


def test_a_batch_that_was_halved_marks_its_half_and_all_also_after_an_interruption(
    prompts: Path, tmp_path: Path
) -> None:
    evaluate(prompts, Answers(halve=True), tmp_path / "answers", parts=["sealed"])
    scores, _ = evaluate(prompts, Answers(), tmp_path / "answers")
    assert {part: score.halved for part, score in scores.items()} == {"search": False, "sealed": True, "all": True}


def test_a_file_that_is_no_log_is_made_anew(prompts: Path, tmp_path: Path) -> None:
    evaluate(prompts, Answers(), tmp_path / "answers")
    (tmp_path / "answers-search.jsonl").write_text("{")
    generate = Answers()
    evaluate(prompts, generate, tmp_path / "answers")
    assert len(generate.asked) == 12


@pytest.mark.parametrize("changed", ["prompts", "identity"])
def test_answers_to_other_prompts_or_of_another_model_are_not_taken(
    prompts: Path, tmp_path: Path, changed: str
) -> None:
    evaluate(prompts, Answers(), tmp_path / "answers", identity={"model": "a"})
    if changed == "prompts":
        tiny.write_prompts(prompts, 26)
    generate = Answers()
    scores, _ = evaluate(
        prompts, generate, tmp_path / "answers", identity={"model": "a" if changed == "prompts" else "b"}
    )
    assert len(generate.asked) == scores["all"].prompt_strict.n == (26 if changed == "prompts" else 24)


def test_prompts_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    with pytest.raises(ObjectiveError, match="does not exist"):
        evaluate(tmp_path / "none.jsonl", Answers(), tmp_path / "answers")


def test_a_prompt_that_cannot_be_answered_is_told_before_the_first_one_is(prompts: Path, tmp_path: Path) -> None:
    generate = Answers()
    generate.too_long = halves(load_prompts(prompts))[1][-1].prompt  # of the half that is asked last
    with pytest.raises(ObjectiveError, match="too long"):
        evaluate(prompts, generate, tmp_path / "answers")
    assert generate.asked == []
