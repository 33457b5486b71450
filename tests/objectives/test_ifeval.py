"""IFEval: prompt files and what is wrong with them, the Score of answers, also of answers that were ended early."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from known_answers import BULLETS, LOWER, NO_COMMA, answer, prompt

from objectives.ifeval import IFEval, load_prompts, samples
from objectives.score import Answer, ObjectiveError, Score


def test_a_prompt_is_followed_when_all_of_its_instructions_are() -> None:
    score = IFEval([prompt(NO_COMMA, BULLETS), prompt(LOWER, key=8)]).check(
        [answer("* one, two\n* three", tokens=9), answer("all in small letters here", tokens=6, capped=True)]
    )
    assert [verdict.strict for verdict in score.verdicts] == [(False, True), (True,)]
    assert (score.prompt_strict.value, score.prompt_strict.n) == (0.5, 2)
    assert score.value == 0.5
    assert score.standard_error == pytest.approx((0.5 * 0.5 / 2) ** 0.5)
    assert (score.instruction_strict.value, score.instruction_strict.n) == (pytest.approx(2 / 3), 3)
    assert {name: measure.value for name, measure in score.by_type.items()} == {
        NO_COMMA[0]: 0.0,
        BULLETS[0]: 1.0,
        LOWER[0]: 1.0,
    }
    assert (score.tokens, score.capped_share, score.exact) == (15, 0.5, True)


def test_null_kwargs_are_as_good_as_none(tmp_path: Path) -> None:
    kwargs = {"num_bullets": 2, "language": None, "keywords": None}
    assert load_prompts(write(tmp_path, [row(kwargs=[kwargs], instruction_id_list=[BULLETS[0]])]))
    assert IFEval([prompt((BULLETS[0], kwargs))]).check([answer("* one\n* two")]).value == 1.0


# ---- prompt files


def row(**changes: object) -> dict[str, object]:
    return {"key": 1, "prompt": "Name a river.", "instruction_id_list": [NO_COMMA[0]], "kwargs": [{}], **changes}


def write(folder: Path, rows: list[object]) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + "\n", encoding="utf-8")
    return path


def test_prompts_are_read_with_byte_order_mark_blank_lines_and_other_fields(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text("\ufeff" + json.dumps(row(source="x")) + "\n\n" + json.dumps(row(key=2)) + "\n", encoding="utf-8")
    assert [p.key for p in load_prompts(path)] == [1, 2]


WRONG = {
    "{'key': 1}": "not JSON",
    '[{"key": 1}]': "holds a JSON list",
    json.dumps({"key": 2, "text": "x"}): "lacks prompt, instruction_id_list, kwargs; it has key, text",
    json.dumps(row(key="3")): "key: it has to be a whole number",
    json.dumps(row(key=3, prompt="\ud800")): "holds characters that no text can have",
    json.dumps(row(key=4, prompt="")): "prompt: it is empty",
    json.dumps(row(key=5, kwargs=[{"num_words": True}])): "kwargs.0.num_words: it has to be a string, a number",
    json.dumps(row(key=6, kwargs=[])): "has 1 instruction and 0 kwargs",
    json.dumps(row(key=7, instruction_id_list=["punctuation:nocomma"])): (
        "punctuation:nocomma is no instruction type of IFEval; the nearest one is punctuation:no_comma"
    ),
    json.dumps(row(key=14, instruction_id_list=[], kwargs=[])): "instruction_id_list: it is empty",
    json.dumps(row(key=15, instruction_id_list="x")): "instruction_id_list: it has to be a list",
    json.dumps(row(key=16, instruction_id_list=["language:response_language"], kwargs=[{"language": "xx"}])): (
        "language of language:response_language is 'xx'; it has to be one of 'ar', 'bg'"
    ),
    json.dumps(row(key=8, instruction_id_list=[BULLETS[0]])): "lack num_bullets",
    json.dumps(row(key=9, instruction_id_list=[BULLETS[0]], kwargs=[{"num_bullets": 0}])): "lack num_bullets",
    json.dumps(
        row(key=10, instruction_id_list=[BULLETS[0]], kwargs=[{"num_bullets": "2"}])
    ): "num_bullets of detectable_format:number_bullet_lists is '2'; it has to be a number",
    json.dumps(row(key=11, kwargs=[{"words": 3}])): "hold words, which it does not know; it takes none",
    json.dumps(
        row(
            key=12,
            instruction_id_list=["length_constraints:number_words"],
            kwargs=[{"num_words": 3, "relation": "most"}],
        )
    ): "it has to be one of 'less than', 'at least'",
    json.dumps(
        row(key=13, instruction_id_list=["keywords:existence"], kwargs=[{"keywords": ["(sea"]}])
    ): "has to be a regular expression: missing \\)",
}


@pytest.mark.parametrize(("line", "message"), WRONG.items(), ids=WRONG.values())
def test_each_error_of_a_prompt_names_its_line(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ObjectiveError, match=r"line 2(, key \d+)?: .*" + message):
        load_prompts(write(tmp_path, [row(), line]))


def test_all_errors_of_a_file_come_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, [row(), *WRONG, row(key=20), row()])
    with pytest.raises(ObjectiveError) as caught:
        load_prompts(path)
    message = str(caught.value)
    assert str(path) in message
    for number in {*range(2, 2 + len(WRONG))} - {15}:  # line 15 has what line 14 has
        assert len(re.findall(rf"line {number}\b", message)) == 1, message
    assert f"line {len(WRONG) + 3}, key 1: key 1 is already that of line 1" in message
    assert re.search(r"line 14, key 8 and 1 more line: kwargs of \S+:number_bullet_lists lack num_bullets", message)


def test_a_file_with_many_errors_shows_twenty_and_counts_the_rest(tmp_path: Path) -> None:
    with pytest.raises(ObjectiveError, match=r"line 20, key 19: .*\n  and 30 more$"):
        load_prompts(write(tmp_path, [row(key=i, instruction_id_list=[f"a:{i}"]) for i in range(50)]))


def test_an_error_that_recurs_is_told_once(tmp_path: Path) -> None:
    unknown = [row(key=i, instruction_id_list=["punctuation:nocomma"] * 2, kwargs=[{}, {}]) for i in range(12)]
    with pytest.raises(ObjectiveError) as caught:
        load_prompts(write(tmp_path, ["{", *unknown, "{"]))
    assert str(caught.value).splitlines()[1:] == [
        "  line 1 and 1 more line: not JSON",
        "  line 2, key 0 and 11 more lines: punctuation:nocomma is no instruction type of IFEval; the nearest one is "
        "punctuation:no_comma",
    ]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ObjectiveError, match=r"absent\.jsonl does not exist; give"):
        load_prompts(tmp_path / "absent.jsonl")
    with pytest.raises(ObjectiveError, match="cannot be read: Is a directory"):
        load_prompts(tmp_path)
    (tmp_path / "latin.jsonl").write_bytes(b'{"key": 1, "prompt": "\xe9"}')
    with pytest.raises(ObjectiveError, match="is not UTF-8"):
        load_prompts(tmp_path / "latin.jsonl")
    with pytest.raises(ObjectiveError, match="holds no prompt"):
        load_prompts(write(tmp_path, [""]))


def test_no_prompts_are_no_objective() -> None:
    with pytest.raises(ObjectiveError, match="no prompt to score"):
        IFEval([])


# ---- score, samples


def test_the_seconds_of_a_score_are_those_of_answering_and_of_checking() -> None:
    clock = iter([20.0, 20.5])
    objective = IFEval([prompt(NO_COMMA)], clock=lambda: next(clock))
    assert objective.check([answer("It runs.")], seconds=3.0).seconds == 3.5


def test_the_digest_depends_on_prompts_and_order_alone() -> None:
    one, two = prompt(NO_COMMA), prompt(LOWER, key=8)
    assert IFEval([one, two]).prompts_sha256 == IFEval([one, two.model_copy()]).prompts_sha256
    assert len({IFEval(p).prompts_sha256 for p in ([one, two], [two, one], [one])}) == 3


def test_a_score_survives_json() -> None:
    score = IFEval([prompt(NO_COMMA, LOWER)]).check([answer("It runs.", capped=True)])
    assert Score.model_validate_json(score.model_dump_json()) == score


def test_samples_have_one_line_for_each_prompt() -> None:
    prompts = [prompt(NO_COMMA, BULLETS), prompt(NO_COMMA, key=8)]
    answers = [answer("It runs.", capped=True), answer("Sure, this:\nIt runs.")]
    lines = samples(prompts, answers, IFEval(prompts).check(answers))
    common = {"prompt": "Write about rivers."}
    assert lines == [
        {"key": 7, **common, "response": "It runs.", "strict": False, "loose": False, "capped": True, "decided": False},
        {
            "key": 8,
            **common,
            "response": "Sure, this:\nIt runs.",
            "strict": False,
            "loose": True,
            "capped": False,
            "decided": False,
        },
    ]


# ---- answers that were ended early


def decided(text: str) -> Answer:
    return Answer(text=text, tokens=16, capped=False, decided=True)


def test_of_an_answer_that_was_ended_early_only_what_is_final_is_told() -> None:
    """The comma is final; the list of one bullet could have gone on."""
    score = IFEval([prompt(NO_COMMA, BULLETS), prompt(NO_COMMA, key=8)]).check(
        [decided("* one, two"), answer("It runs.")]
    )
    first, second = score.verdicts
    assert (first.strict, first.loose, first.followed, first.followed_loosely) == (
        (False, None),
        (None, None),
        False,
        None,
    )
    assert (second.strict, second.loose) == ((True,), (True,))
    assert (score.value, score.clean.value, score.decided_share) == (0.5, 0.5, 0.5)
    assert (score.prompt_loose, score.instruction_strict, score.instruction_loose, score.by_type) == (
        None,
        None,
        None,
        {},
    )
    assert Score.model_validate_json(score.model_dump_json()) == score


def test_an_answer_that_was_ended_once_it_had_everything_follows() -> None:
    one = prompt(("keywords:existence", {"keywords": ["river"]}))
    verdict = IFEval([one]).check([decided("the river and")]).verdicts[0]
    assert (verdict.strict, verdict.loose, verdict.followed) == ((True,), (None,), True)


def test_samples_say_which_answers_were_ended_early() -> None:
    prompts, answers = [prompt(NO_COMMA)], [decided("one, two")]
    (line,) = samples(prompts, answers, IFEval(prompts).check(answers))
    assert (line["strict"], line["loose"], line["decided"]) == (False, None, True)


# ---- what is counted


def test_empty_answers_and_loops_are_counted() -> None:
    prompts = [prompt(NO_COMMA, key=key) for key in range(4)]
    score = IFEval(prompts).check([answer(""), answer(" \n"), answer("the river runs " * 20), answer("It runs.")])
    assert (score.empty, score.looped, score.value) == (2, 1, 0.5)
    assert score.clean == score.prompt_strict


def test_clean_leaves_out_what_is_known_to_be_defective(research_data: Path) -> None:
    prompts = load_prompts(research_data / "ifeval_input_data.jsonl")
    score = IFEval(prompts).check([answer("")] * len(prompts))
    assert (score.prompt_strict.n, score.clean.n) == (541, 467)
