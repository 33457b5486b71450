"""IFEval with lm-eval's real checkers: known verdicts, repeatability, bad prompt files, the fallback."""

from __future__ import annotations

import gzip
import json
import logging
import random
import subprocess
import sys
from pathlib import Path

import langdetect
import nltk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives import ifeval
from objectives.ifeval import IFEval, load_prompts, punkt_available, samples
from objectives.score import INSTRUCTIONS, Answer, ObjectiveError, Prompt, Score


def prompt(*instructions: tuple[str, dict], key: int = 7, text: str = "Write about rivers.") -> Prompt:
    names, kwargs = zip(*instructions, strict=True)
    return Prompt(key=key, prompt=text, instruction_id_list=names, kwargs=kwargs)


def answer(text: str, tokens: int = 5, capped: bool = False) -> Answer:
    return Answer(text=text, tokens=tokens, capped=capped)


def judge(one: Prompt, text: str) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
    verdict = IFEval([one]).check([answer(text)]).verdicts[0]
    return verdict.strict, verdict.loose


NO_COMMA = ("punctuation:no_comma", {})
LOWER = ("change_case:english_lowercase", {})
BULLETS = ("detectable_format:number_bullet_lists", {"num_bullets": 2})
JSON = ("detectable_format:json_format", {})

KNOWN = [
    (NO_COMMA, "The river runs to the sea.", "The river runs, to the sea."),
    (LOWER, "the river runs to the sea and the old bridge stands", "The river runs to the sea"),
    (
        ("change_case:english_capital", {}),
        "THE RIVER RUNS TO THE SEA AND THE OLD BRIDGE STANDS",
        "THE RIVER runs to the sea",
    ),
    (BULLETS, "* the source\n* the sea", "* the source"),
    (JSON, '```json\n{"river": [1, 2]}\n```', "river: 1"),
    (("detectable_format:title", {}), "<<The river>>\nIt runs.", "The river\nIt runs."),
    (("detectable_format:number_highlighted_sections", {"num_highlights": 2}), "*one* and *two*", "*one* and two"),
    (("detectable_content:number_placeholders", {"num_placeholders": 1}), "Dear [name]", "Dear you"),
    (("detectable_content:postscript", {"postscript_marker": "P.S."}), "It runs.\nP.S. It floods.", "It runs."),
    (("startend:quotation", {}), '"It runs."', "It runs."),
    (("startend:end_checker", {"end_phrase": "That is all."}), "It runs. That is all.", "That is all. It runs."),
    (("combination:two_responses", {}), "It runs.******It floods.", "It runs."),
    (("combination:repeat_prompt", {"prompt_to_repeat": "Name a river."}), "Name a river. The Rhine.", "The Rhine."),
    (("keywords:existence", {"keywords": ["river", "sea"]}), "The river meets the sea.", "The river."),
    (("keywords:forbidden_words", {"forbidden_words": ["sea"]}), "The river and the seal.", "The sea."),
    (("keywords:frequency", {"keyword": "sea", "frequency": 2, "relation": "at least"}), "sea to sea", "the sea"),
    (
        ("keywords:letter_frequency", {"letter": "r", "let_frequency": 3, "let_relation": "less than"}),
        "river",
        "rare river",
    ),
    (("length_constraints:number_words", {"num_words": 4, "relation": "less than"}), "It runs fast.", "It runs to us."),
    (("length_constraints:number_paragraphs", {"num_paragraphs": 2}), "One.\n***\nTwo.", "One.\n\nTwo."),
    (
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"},
        ),
        "First.\n\nThen it runs.",
        "First.\n\nIt runs then.",
    ),
    (
        ("language:response_language", {"language": "de"}),
        "Der Fluss fließt langsam durch das Tal.",
        "It runs to the sea.",
    ),
    (
        ("detectable_format:multiple_sections", {"section_spliter": "Section", "num_sections": 2}),
        "Section 1\nIt runs.\nSection 2\nIt floods.",
        "Section 1\nIt runs.",
    ),
    (("detectable_format:constrained_response", {}), "My answer is maybe.", "Maybe."),
    (
        ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}),
        "It runs. It floods.",
        "It.",
    ),
    (
        ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"}),
        "It RUNS to the SEA.",
        "It RUNS to the sea.",
    ),
]


def test_the_known_answers_cover_every_type() -> None:
    assert sorted({instruction[0] for instruction, _, _ in KNOWN}) == sorted(ifeval._CHECKERS)


@pytest.mark.parametrize(("instruction", "good", "bad"), KNOWN, ids=[known[0][0] for known in KNOWN])
def test_checkers_give_the_known_verdicts(instruction: tuple[str, dict], good: str, bad: str) -> None:
    assert judge(prompt(instruction), good) == ((True,), (True,))
    assert judge(prompt(instruction), bad)[0] == (False,)


@pytest.mark.parametrize("instruction", [known[0] for known in KNOWN], ids=[known[0][0] for known in KNOWN])
@pytest.mark.parametrize("empty", ["", " \n\t"])
def test_an_empty_answer_follows_nothing(instruction: tuple[str, dict], empty: str) -> None:
    assert judge(prompt(instruction), empty) == ((False,), (False,))


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


def test_loose_forgives_a_first_line_and_asterisks() -> None:
    assert judge(prompt(NO_COMMA), "Sure, here it is:\nThe river runs.") == ((False,), (True,))
    assert judge(prompt(("startend:quotation", {})), '*"It runs."*') == ((False,), (True,))


def test_null_kwargs_are_as_good_as_none(tmp_path: Path) -> None:
    kwargs = {"num_bullets": 2, "language": None, "keywords": None}
    assert load_prompts(write(tmp_path, [row(kwargs=[kwargs], instruction_id_list=[BULLETS[0]])]))
    assert judge(prompt((BULLETS[0], kwargs)), "* one\n* two") == ((True,), (True,))


# ---- repeatable


def test_the_same_answers_always_give_the_same_verdicts() -> None:
    """The answer is German or English, as chance has it; the letter is drawn, since `#` is none."""
    language = prompt(("language:response_language", {"language": "de"}))
    letter = ("keywords:letter_frequency", {"letter": "#", "let_frequency": 2, "let_relation": "at least"})
    objective = IFEval([language, *(prompt(letter, key=key) for key in range(4))])
    answers = [answer("Bonn ist not"), *[answer("a letter is drawn: e e t t a a")] * 4]
    verdicts = set()
    for seed in range(20):
        random.seed(seed)
        langdetect.DetectorFactory.seed = seed
        verdicts.add(objective.check(answers).verdicts)
    langdetect.DetectorFactory.seed = None
    assert len(verdicts) == 1


def test_the_instruction_types_are_those_of_the_checkers() -> None:
    assert ifeval._CHECKERS.keys() == INSTRUCTIONS


def test_a_check_leaves_the_world_as_it_was() -> None:
    registry = dict(ifeval._CHECKERS)
    log = logging.getLogger("lm_eval.tasks.ifeval.instructions")
    random.seed(5)
    before = random.getstate(), langdetect.DetectorFactory.seed, log.level
    IFEval([prompt(LOWER), prompt(SENTENCES, key=8)]).check([answer("it runs"), answer("It. Runs.")])
    assert (random.getstate(), langdetect.DetectorFactory.seed, log.level) == before
    assert registry == ifeval._CHECKERS


def test_a_language_that_cannot_be_told_is_no_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    assert judge(prompt(("language:response_language", {"language": "de"})), "123") == ((True,), (True,))
    assert not caplog.records


def test_brackets_without_end_fail_instead_of_ending_the_scoring() -> None:
    assert judge(prompt(JSON, NO_COMMA), "[" * 100_000) == ((False, True), (False, True))


ALL_TYPES = [prompt(known[0], key=i) for i, known in enumerate(KNOWN)]


@settings(max_examples=25, deadline=None)
@given(st.text(alphabet='aAe ,.!?*"-\n[]{}<>1é漢', max_size=60))
def test_what_holds_strictly_holds_loosely_for_any_answer(text: str) -> None:
    score = IFEval(ALL_TYPES).check([answer(text)] * len(ALL_TYPES))
    for verdict in score.verdicts:
        assert verdict.strict <= verdict.loose, (verdict, text)
    assert score.prompt_strict.value <= score.prompt_loose.value


# ---- import and punkt_tab

SENTENCES = ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"})

QUIET_IMPORT = """
import os, socket, sys
def refuse(*args, **kwargs):
    raise AssertionError(f"network: {args}")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
import objectives.ifeval
assert "LOCAL_RANK" not in os.environ
assert "torch" not in sys.modules
"""


def test_importing_is_silent_needs_no_network_and_no_torch(tmp_path: Path) -> None:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "NLTK_DATA": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", QUIET_IMPORT], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.fixture
def no_punkt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nltk.data, "path", [])


def test_without_punkt_the_score_says_that_it_is_not_exact(no_punkt: None) -> None:
    assert not punkt_available()
    assert IFEval([prompt(NO_COMMA)]).exact
    for needs_punkt in ifeval.NEED_PUNKT:
        one = next(p for p in ALL_TYPES if p.instruction_id_list == (needs_punkt,))
        assert not IFEval([prompt(NO_COMMA), one]).check([answer("It runs. It floods."), answer("A B.")]).exact


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("It runs. It floods.", 2),
        ("Dr. Ruiz met Mr. Wu at 5 p.m. on Oct. 3 in the U.S. embassy.", 1),
        ("Is it so? Yes! It is.", 3),
        ("It costs 3.50 euros, e.g. in Bonn. Prices rise.", 2),
    ],
)
def test_the_fallback_counts_sentences(no_punkt: None, text: str, sentences: int) -> None:
    def at_least(n: int) -> Prompt:
        return prompt((SENTENCES[0], {"num_sentences": n, "relation": "at least"}))

    assert judge(at_least(sentences), text)[0] == (True,)
    assert judge(at_least(sentences + 1), text)[0] == (False,)


def test_with_punkt_the_score_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty data in nltk's own format stands in for the trained model, so that lm-eval's own splitter runs."""
    folder = tmp_path / "tokenizers" / "punkt_tab" / "english"
    folder.mkdir(parents=True)
    for name, text in [("abbrev_types.txt", "zz"), ("collocations.tab", ""), ("sent_starters.txt", "")]:
        (folder / name).write_text(text)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    assert not punkt_available()  # one of its files is missing
    (folder / "ortho_context.tab").write_text("")
    clear_nltk_caches()
    score = IFEval(prompts := [prompt(SENTENCES), prompt(SENTENCES, key=8)]).check(
        [answer("It met Zz. Ruiz."), answer("It met Dr. Ruiz.")]
    )
    clear_nltk_caches()
    assert score.exact
    assert [verdict.strict for verdict in score.verdicts] == [(False,), (True,)], prompts


def clear_nltk_caches() -> None:
    from lm_eval.tasks.ifeval import instructions_util

    instructions_util._get_sentence_tokenizer.cache_clear()
    nltk.tokenize._get_punkt_tokenizer.cache_clear()


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
    json.dumps(row(key="3")): "key: Input should be a valid integer",
    json.dumps(row(key=3, prompt="\ud800")): "row: Invalid JSON",
    json.dumps(row(key=4, prompt="")): "prompt: String should have at least 1 character",
    json.dumps(row(key=5, kwargs=[{"num_words": True}])): "kwargs.0.num_words: must be a string, a number",
    json.dumps(row(key=6, kwargs=[])): "has 1 instructions and 0 kwargs",
    json.dumps(row(key=7, instruction_id_list=["punctuation:nocomma"])): (
        "unknown instruction id 'punctuation:nocomma'; the nearest one is 'punctuation:no_comma'"
    ),
    json.dumps(row(key=8, instruction_id_list=[BULLETS[0]])): "lack num_bullets",
    json.dumps(row(key=9, instruction_id_list=[BULLETS[0]], kwargs=[{"num_bullets": 0}])): "lack num_bullets",
    json.dumps(
        row(key=10, instruction_id_list=[BULLETS[0]], kwargs=[{"num_bullets": "2"}])
    ): "cannot be used: TypeError",
    json.dumps(row(key=11, kwargs=[{"words": 3}])): "unexpected keyword argument 'words'",
    json.dumps(
        row(
            key=12,
            instruction_id_list=["length_constraints:number_words"],
            kwargs=[{"num_words": 3, "relation": "most"}],
        )
    ): "supported relation",
    json.dumps(
        row(key=13, instruction_id_list=["keywords:existence"], kwargs=[{"keywords": ["(sea"]}])
    ): "cannot be used: .*missing \\)",
}


@pytest.mark.parametrize(("line", "message"), WRONG.items(), ids=WRONG.values())
def test_each_error_of_a_prompt_names_its_line(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ObjectiveError, match="line 2: .*" + message):
        load_prompts(write(tmp_path, [row(), line]))


def test_all_errors_of_a_file_come_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, [row(), *WRONG, row(key=20), row()])
    with pytest.raises(ObjectiveError) as caught:
        load_prompts(path)
    message = str(caught.value)
    assert str(path) in message
    for number in range(2, 2 + len(WRONG)):
        assert message.count(f"line {number}: ") == 1, message
    assert f"line {len(WRONG) + 3}: key 1 is already that of line 1" in message


def test_a_file_with_many_errors_shows_twenty_and_counts_the_rest(tmp_path: Path) -> None:
    with pytest.raises(ObjectiveError, match=r"line 20: .*\n  and 30 more$"):
        load_prompts(write(tmp_path, ["{"] * 50))


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


def test_score_adds_generation_and_checking_time() -> None:
    clock = iter([10.0, 13.0, 20.0, 20.5])
    objective = IFEval([prompt(NO_COMMA)], clock=lambda: next(clock))

    def generate(prompts: list[str]) -> list[Answer]:
        assert prompts == ["Write about rivers."]
        return [answer("It runs.")]

    assert objective.score(generate).seconds == 3.5


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
        {"key": 7, **common, "response": "It runs.", "strict": False, "loose": False, "capped": True},
        {"key": 8, **common, "response": "Sure, this:\nIt runs.", "strict": False, "loose": True, "capped": False},
    ]


# ---- published responses


def test_recorded_verdicts_of_published_responses(research_data: Path) -> None:
    """Every third response of three models. Verdicts recorded by others differ where they did not seed: language
    detection of all-capitals text, and letters that no prompt names."""
    prompts = load_prompts(research_data / "ifeval_input_data.jsonl")
    assert len(prompts) == 541
    with gzip.open(research_data / "ifeval_responses_three_models.jsonl.gz", "rt", encoding="utf-8") as file:
        recorded = [row for row in map(json.loads, file) if row["prompt_matches"]][::3]
    by_key = {p.key: p for p in prompts}
    objective = IFEval([by_key[row["key"]] for row in recorded])
    score = objective.check([answer(row["response"]) for row in recorded])
    differing = [
        (verdict.key, name)
        for verdict, row in zip(score.verdicts, recorded, strict=True)
        for name, ours, theirs in zip(verdict.instruction_id_list, verdict.strict, row["recorded_strict"], strict=True)
        if ours != theirs
    ]
    assert len(recorded) == 540
    assert len(differing) <= 2, differing
    allowed = {"keywords:letter_frequency", "change_case:english_capital", "language:response_language"}
    assert {name for _, name in differing} <= allowed | set(() if score.exact else ifeval.NEED_PUNKT)
