"""lm-eval's checkers as Nightshift calls them: known verdicts, the same each time, those of lm-eval, the fallback."""

from __future__ import annotations

import gzip
import json
import logging
import os
import random
import subprocess
import sys
from pathlib import Path

import langdetect
import nltk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_answers import ALL_TYPES, JSON, KNOWN, LOWER, NO_COMMA, answer, prompt

from objectives import checkers
from objectives.checkers import fixed_world
from objectives.ifeval import IFEval, load_prompts
from objectives.score import INSTRUCTIONS, Prompt, Verdict
from objectives.sentences import NEED_PUNKT, punkt_available

LANGUAGE_TYPES = ("language:response_language", "change_case:english_capital", "change_case:english_lowercase")


def judge(one: Prompt, text: str) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
    verdict = IFEval([one]).check([answer(text)]).verdicts[0]
    return verdict.strict, verdict.loose


def test_the_known_answers_cover_every_type() -> None:
    assert sorted({instruction[0] for instruction, _, _ in KNOWN}) == sorted(checkers.CHECKERS)


@pytest.mark.parametrize(("instruction", "good", "bad"), KNOWN, ids=[known[0][0] for known in KNOWN])
def test_checkers_give_the_known_verdicts(instruction: tuple[str, dict], good: str, bad: str) -> None:
    assert judge(prompt(instruction), good) == ((True,), (True,))
    assert judge(prompt(instruction), bad)[0] == (False,)


@pytest.mark.parametrize("instruction", [known[0] for known in KNOWN], ids=[known[0][0] for known in KNOWN])
@pytest.mark.parametrize("empty", ["", " \n\t"])
def test_an_empty_answer_follows_nothing(instruction: tuple[str, dict], empty: str) -> None:
    assert judge(prompt(instruction), empty) == ((False,), (False,))


def test_loose_forgives_a_first_line_and_asterisks() -> None:
    assert judge(prompt(NO_COMMA), "Sure, here it is:\nThe river runs.") == ((False,), (True,))
    assert judge(prompt(("startend:quotation", {})), '*"It runs."*') == ((False,), (True,))


# ---- repeatable


LANGUAGES = [
    prompt(("language:response_language", {"language": "de"}), key=40),
    prompt(("language:response_language", {"language": "gu"}), key=41),
    prompt(("change_case:english_capital", {}), key=42),
    prompt(("change_case:english_lowercase", {}), key=43),
]
LANGUAGE_TEXTS = [
    "Bonn ist not",
    "કોહો (Kaho)",
    "THE RIVER RUNS",
    "the river runs",
]  # the first two: by chance, unseeded
LETTERS = [
    prompt(("keywords:letter_frequency", {"letter": "#", "let_frequency": 2, "let_relation": "at least"}), key=key)
    for key in range(50, 54)
]
LETTER_TEXTS = ["a letter is drawn: e e t t a a"] * len(LETTERS)
OTHERS = [one for one in ALL_TYPES if one.instruction_id_list[0] not in LANGUAGE_TYPES]
OTHER_TEXTS = [good for (name, _), good, _ in KNOWN if name not in LANGUAGE_TYPES]


def test_the_same_answers_give_the_same_verdicts_a_thousand_times() -> None:
    """Every type, the drawn letters among them, in every pass; of the four with a language, which take longest, one."""
    seen = set()
    for number in range(1000):
        random.seed(number)
        langdetect.DetectorFactory.seed = number
        with fixed_world():
            each = zip([*OTHERS, *LETTERS], [*OTHER_TEXTS, *LETTER_TEXTS], strict=True)
            seen.update((one.key, *_verdicts(one, text)) for one, text in each)
            turn = number % 2 + (2 if number % 10 > 1 else 0)  # what is left to chance, unseeded, takes long
            seen.add((LANGUAGES[turn].key, *_verdicts(LANGUAGES[turn], LANGUAGE_TEXTS[turn])))
    langdetect.DetectorFactory.seed = None
    assert len(seen) == len(OTHERS) + len(LETTERS) + len(LANGUAGES)


def _verdicts(one: Prompt, text: str) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
    strict, loose = checkers.judge(one, text, exact=False)
    return tuple(strict), tuple(loose)


ELSEWHERE = """
import os, sys
listdir = os.listdir
os.listdir = lambda *path: sorted(listdir(*path), reverse=True)
sys.path[:0] = ["tests", "tests/objectives"]
import test_checkers
print(test_checkers.all_verdicts())
"""


def all_verdicts() -> str:
    prompts, texts = [*OTHERS, *LETTERS, *LANGUAGES], [*OTHER_TEXTS, *LETTER_TEXTS, *LANGUAGE_TEXTS]
    verdicts = IFEval(prompts).check([answer(text) for text in texts]).verdicts
    return repr([(verdict.strict, verdict.loose) for verdict in verdicts])


def test_another_process_with_its_folders_in_another_order_gives_the_same_verdicts() -> None:
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    shown = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], env=environment, capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == all_verdicts()


def test_the_instruction_types_are_those_of_the_checkers() -> None:
    assert checkers.CHECKERS.keys() == INSTRUCTIONS


def test_a_check_leaves_the_world_as_it_was() -> None:
    registry = dict(checkers.CHECKERS)
    log = logging.getLogger("lm_eval.tasks.ifeval.instructions")
    random.seed(5)
    before = random.getstate(), langdetect.DetectorFactory.seed, log.level
    IFEval([prompt(LOWER), prompt(SENTENCES, key=8)]).check([answer("it runs"), answer("It. Runs.")])
    assert (random.getstate(), langdetect.DetectorFactory.seed, log.level) == before
    assert registry == checkers.CHECKERS


def test_a_language_that_cannot_be_told_is_no_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    assert judge(prompt(("language:response_language", {"language": "de"})), "123") == ((True,), (True,))
    assert not caplog.records


def test_brackets_without_end_fail_instead_of_ending_the_scoring() -> None:
    assert judge(prompt(JSON, NO_COMMA), "[" * 100_000) == ((False, True), (False, True))


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
    for needs_punkt in NEED_PUNKT:
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


# ---- against lm-eval's own functions

BY_LM_EVAL = [one for one in ALL_TYPES if one.instruction_id_list[0] not in NEED_PUNKT] + LETTERS
TEXTS = st.lists(
    st.sampled_from([good for _, good, _ in KNOWN] + [bad for _, _, bad in KNOWN] + ["", "*", "\n", "\n\n", "Sure:\n"]),
    max_size=4,
).map("".join)


@settings(max_examples=15, deadline=None)
@given(TEXTS)
def test_verdicts_are_those_of_lm_evals_functions(text: str) -> None:
    with fixed_world():
        for one in BY_LM_EVAL:
            assert _verdicts(one, text) == lm_evals(one, text), (one, text)


def lm_evals(one: Prompt, text: str) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
    """With its functions as they come; a draw is seeded as ours is."""
    from lm_eval.tasks.ifeval import utils  # imported late: objectives.checkers has seen to it that it fetches nothing

    verdicts = []
    for check in (utils.test_instruction_following_strict, utils.test_instruction_following_loose):
        followed = []
        for name, kwargs in zip(one.instruction_id_list, one.kwargs, strict=True):
            random.seed(one.key)
            example = utils.InputExample(one.key, [name], one.prompt, [kwargs])
            followed += check(example, text).follow_instruction_list
        verdicts.append(tuple(followed))
    return verdicts[0], verdicts[1]


# ---- published responses


@pytest.fixture(scope="module")
def published(research_data: Path) -> list[tuple[dict, Prompt, Verdict]]:
    """1,623 responses of three models: what was recorded of each, its prompt, and our verdicts on it."""
    prompts = {p.key: p for p in load_prompts(research_data / "ifeval_input_data.jsonl")}
    with gzip.open(research_data / "ifeval_responses_three_models.jsonl.gz", "rt", encoding="utf-8") as file:
        recorded = [json.loads(line) for line in file]
    asked = [prompts[row["key"]] for row in recorded]
    verdicts = IFEval(asked).check([answer(row["response"]) for row in recorded]).verdicts
    return list(zip(recorded, asked, verdicts, strict=True))


def test_the_differences_from_recorded_verdicts_are_those_that_are_explained(published: list) -> None:
    """Each row of the table in docs/checking.md, and no other."""
    found = set()
    for row, _, verdict in published:
        theirs = zip(row["recorded_strict"], row["recorded_loose"], strict=True)
        ours = zip(verdict.strict, verdict.loose, strict=True)
        for name, recorded, judged in zip(verdict.instruction_id_list, theirs, ours, strict=True):
            if recorded != judged:
                found.add((row["model"].split("__")[1], str(row["key"]), name, _both(recorded), _both(judged)))
    assert len(published) == 3 * 541
    assert found == _explained()


def _both(verdicts: tuple[bool, bool]) -> str:
    return " / ".join("yes" if followed else "no" for followed in verdicts)


def _explained() -> set[tuple[str, ...]]:
    text = (Path(__file__).parents[2] / "docs" / "checking.md").read_text(encoding="utf-8")
    table = text[text.index("| model | key | type |") :].split("\n\n")[0].splitlines()[2:]
    return {tuple(cell.strip(" `") for cell in line.strip("|").split("|"))[:5] for line in table}


def test_on_published_responses_verdicts_are_those_of_lm_evals_functions(published: list) -> None:
    """On every fifth of them, where no sentence has to be split without punkt_tab."""
    with fixed_world():
        for row, one, verdict in published[::5]:
            if punkt_available() or NEED_PUNKT.isdisjoint(one.instruction_id_list):
                assert (verdict.strict, verdict.loose) == lm_evals(one, row["response"]), (row["model"], one.key)
