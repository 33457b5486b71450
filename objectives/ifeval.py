"""IFEval: prompts whose instructions a program can check, and lm-eval's own checkers for them.

The checkers of 4 of the 25 instruction types are not repeatable as they come: three detect languages with an unseeded
sampler, and `letter_frequency` draws a letter where the prompt's is none. Here both are seeded for every single check,
so that the same answers give the same verdicts.

Two types (SENTENCES, CAPITAL_WORDS) need nltk's trained sentence splitter, `punkt_tab`. Where it is not installed they
fall back on the same algorithm with a fixed list of abbreviations in place of the training, and the Score of prompts
that need it says `exact = False`. On 1,620 published answers of three models no recorded verdict of the two changed.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import logging
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import langdetect
import lm_eval.tasks  # noqa: F401  heavy: before the checkers, see _no_download
from nltk.tokenize.destructive import NLTKWordTokenizer
from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer, PunktTokenizer
from pydantic import ValidationError

from objectives.score import Answer, Generate, Measure, ObjectiveError, Prompt, Score, Verdict


@contextmanager
def _no_download() -> Iterator[None]:
    """Import lm-eval's checkers as a process of another rank than 0.

    As rank 0 they fetch punkt_tab at import, and print that they did even when they did not. Their heavy
    dependencies are imported before, so that no other library sees this rank.
    """
    before = os.environ.get("LOCAL_RANK")
    os.environ["LOCAL_RANK"] = "1"
    try:
        yield
    finally:
        del os.environ["LOCAL_RANK"]
        if before is not None:
            os.environ["LOCAL_RANK"] = before


with _no_download():
    from lm_eval.tasks.ifeval import instructions, instructions_registry, utils

SENTENCES = "length_constraints:number_sentences"
CAPITAL_WORDS = "change_case:capital_word_frequency"
NEED_PUNKT = frozenset({SENTENCES, CAPITAL_WORDS})

_FIELDS = ("key", "prompt", "instruction_id_list", "kwargs")
_CHECKERS: dict[str, Any] = instructions_registry.INSTRUCTION_DICT
_MOST_ERRORS = 20
_ABBREVIATIONS = (
    "mr mrs ms dr prof rev hon st sr jr gen col capt lt sgt sen rep gov inc ltd co corp dept est ave blvd "
    "e.g i.e etc vs cf al approx no vol fig p pp ed a.m p.m u.s u.k ph.d b.c a.d "
    "jan feb mar apr jun jul aug sep sept oct nov dec"
)


def load_prompts(path: Path | str) -> tuple[Prompt, ...]:
    """Read prompts from a JSONL file in IFEval's format: key, prompt, instruction_id_list, kwargs; other fields are
    left out.

    Raises ObjectiveError with every error of the file at once: not JSON, a field missing or of a wrong type, an unknown
    instruction id, missing or unusable kwargs, a key that occurs twice.
    """
    prompts: list[Prompt] = []
    errors: list[str] = []
    first_seen: dict[int, int] = {}
    for number, line in _lines(Path(path)):
        prompt, wrong = _parse(line)
        if prompt is not None:
            prompts.append(prompt)
            first = first_seen.setdefault(prompt.key, number)
            if first != number:
                wrong.append(f"key {prompt.key} is already that of line {first}; give every prompt its own key")
        errors += [f"line {number}: {error}" for error in wrong]
    if errors:
        shown = errors[:_MOST_ERRORS] + [f"and {len(errors) - _MOST_ERRORS} more"] * (len(errors) > _MOST_ERRORS)
        raise ObjectiveError(f"{path} is no file of IFEval prompts:\n  " + "\n  ".join(shown))
    if not prompts:
        raise ObjectiveError(f"{path} holds no prompt; it needs one JSON object a line with {', '.join(_FIELDS)}")
    return tuple(prompts)


def _lines(path: Path) -> list[tuple[int, str]]:
    """The lines of `path` that are not blank, numbered from 1. A byte order mark is tolerated."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ObjectiveError(f"{path} does not exist; give the path of a JSONL file of IFEval prompts") from None
    except UnicodeDecodeError as error:
        raise ObjectiveError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8 JSONL") from None
    except OSError as error:
        raise ObjectiveError(f"{path} cannot be read: {error.strerror}") from None
    return [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _parse(line: str) -> tuple[Prompt | None, list[str]]:
    """The prompt of one line, where its fields can be read at all, and what is wrong with it."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return None, [f"not JSON ({error})"]
    if not isinstance(row, dict):
        return None, [f"holds a JSON {type(row).__name__}; an object with {', '.join(_FIELDS)} is needed"]
    if missing := [field for field in _FIELDS if field not in row]:
        return None, [f"lacks {', '.join(missing)}; it has {', '.join(sorted(row)) or 'nothing'}"]
    try:
        prompt = Prompt.model_validate_json(json.dumps({field: row[field] for field in _FIELDS}))
    except ValidationError as error:
        return None, list(dict.fromkeys(_wrong_type(e["loc"], e["msg"]) for e in error.errors(include_url=False)))
    return prompt, _wrong_instructions(prompt)


def _wrong_type(place: tuple[int | str, ...], message: str) -> str:
    """One line for a field of a wrong type; pydantic has one for each type that a value of kwargs might have."""
    if place[:1] == ("kwargs",) and len(place) > 3:
        place, message = place[:3], "must be a string, a number, a list of strings or null"
    return f"{'.'.join(map(str, place)) or 'row'}: {message}"


def _wrong_instructions(prompt: Prompt) -> list[str]:
    if len(prompt.kwargs) != len(prompt.instruction_id_list):
        return [
            f"has {len(prompt.instruction_id_list)} instructions and {len(prompt.kwargs)} kwargs; one each is needed"
        ]
    wrong = []
    for index, (name, kwargs) in enumerate(zip(prompt.instruction_id_list, prompt.kwargs, strict=True)):
        if name not in _CHECKERS:
            nearest = difflib.get_close_matches(name, _CHECKERS, n=1, cutoff=0.0)
            wrong.append(f"unknown instruction id {name!r}; the nearest one is {nearest[0]!r}")
        elif absent := [k for k in _CHECKERS[name](name).get_instruction_args_keys() if not kwargs.get(k)]:
            wrong.append(f"kwargs of {name} lack {', '.join(absent)} (absent, null, 0 or empty)")
        elif problem := _unusable(prompt, index):
            wrong.append(f"kwargs of {name} cannot be used: {problem}")
    return wrong


def _unusable(prompt: Prompt, index: int) -> str | None:
    """What a checker says when it is tried on a word, or None where it works: kwargs may be of a wrong type, unknown to
    it, or no regular expression where it takes one."""
    try:
        with _fixed_world(exact=False):
            _follows(utils.test_instruction_following_strict, prompt, index, "word")
    except Exception as error:  # whatever a checker of lm-eval raises on bad kwargs
        return f"{type(error).__name__}: {error}"
    return None


def prompts_sha256(prompts: Sequence[Prompt]) -> str:
    """SHA-256 of the prompts in their order: equal for equal prompts, whatever file they came from."""
    rows = [prompt.model_dump(mode="json") for prompt in prompts]
    return hashlib.sha256(json.dumps(rows, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def punkt_available() -> bool:
    """Whether nltk's trained English sentence splitter is installed and whole. Looks on disk only."""
    try:
        PunktTokenizer("english")
    except (LookupError, OSError):
        return False
    return True


class IFEval:
    """IFEval over a fixed list of prompts.

    The headline is prompt-level strict accuracy (every instruction of a prompt followed); loose verdicts forgive a
    first or last line and markdown asterisks. `exact` is false where a prompt is judged by the fallback.
    """

    def __init__(self, prompts: Sequence[Prompt], *, clock: Callable[[], float] = time.perf_counter) -> None:
        if not prompts:
            raise ObjectiveError("there is no prompt to score; give at least one")
        self.prompts = tuple(prompts)
        self.prompts_sha256 = prompts_sha256(self.prompts)
        self.punkt = punkt_available()
        needs_punkt = any(name in NEED_PUNKT for prompt in self.prompts for name in prompt.instruction_id_list)
        self.exact = self.punkt or not needs_punkt
        self._clock = clock

    def score(self, generate: Generate) -> Score:
        """Have every prompt answered, and check the answers."""
        started = self._clock()
        answers = generate([prompt.prompt for prompt in self.prompts])
        return self.check(answers, seconds=self._clock() - started)

    def check(self, answers: Sequence[Answer], *, seconds: float = 0.0) -> Score:
        """Judge one answer for each prompt, in the prompts' order. The same answers always give the same verdicts.

        `seconds` is what the answers took; the checking is added to it. An empty answer follows nothing.
        """
        assert len(answers) == len(self.prompts), f"{len(answers)} answers to {len(self.prompts)} prompts"
        started = self._clock()
        with _fixed_world(exact=self.punkt):
            verdicts = tuple(_judge(p, a) for p, a in zip(self.prompts, answers, strict=True))
        return Score(
            prompt_strict=Measure.of([all(v.strict) for v in verdicts]),
            prompt_loose=Measure.of([all(v.loose) for v in verdicts]),
            instruction_strict=Measure.of([followed for v in verdicts for followed in v.strict]),
            instruction_loose=Measure.of([followed for v in verdicts for followed in v.loose]),
            by_type=_by_type(verdicts),
            verdicts=verdicts,
            prompts_sha256=self.prompts_sha256,
            exact=self.exact,
            seconds=seconds + self._clock() - started,
            tokens=sum(answer.tokens for answer in answers),
        )


def samples(prompts: Sequence[Prompt], answers: Sequence[Answer], score: Score) -> list[dict[str, Any]]:
    """The lines of samples.jsonl, one for each prompt; `strict` and `loose` are the verdicts on the whole prompt."""
    return [
        {
            "key": prompt.key,
            "prompt": prompt.prompt,
            "response": answer.text,
            "strict": all(verdict.strict),
            "loose": all(verdict.loose),
            "capped": answer.capped,
        }
        for prompt, answer, verdict in zip(prompts, answers, score.verdicts, strict=True)
    ]


def _judge(prompt: Prompt, answer: Answer) -> Verdict:
    indices = range(len(prompt.instruction_id_list))
    strict, loose = utils.test_instruction_following_strict, utils.test_instruction_following_loose
    return Verdict(
        key=prompt.key,
        instruction_id_list=prompt.instruction_id_list,
        strict=tuple(_follows(strict, prompt, i, answer.text) for i in indices),
        loose=tuple(_follows(loose, prompt, i, answer.text) for i in indices),
        tokens=answer.tokens,
        capped=answer.capped,
    )


def _follows(check: Any, prompt: Prompt, index: int, text: str) -> bool:
    """lm-eval's verdict on one instruction. Seeded by the prompt each time, so that what a checker draws (the letter of
    a `letter_frequency` that names none) is the same for strict and loose, and whichever other instructions there are.
    """
    example = utils.InputExample(
        key=prompt.key,
        instruction_id_list=[prompt.instruction_id_list[index]],
        prompt=prompt.prompt,
        kwargs=[prompt.kwargs[index]],
    )
    random.seed(prompt.key)
    try:
        return bool(check(example, text).follow_instruction_list[0])
    except RecursionError:  # thousands of nested brackets under json_format
        return False


def _by_type(verdicts: Sequence[Verdict]) -> dict[str, Measure]:
    outcomes: dict[str, list[bool]] = {}
    for verdict in verdicts:
        for name, followed in zip(verdict.instruction_id_list, verdict.strict, strict=True):
            outcomes.setdefault(name, []).append(followed)
    return {name: Measure.of(outcomes[name]) for name in sorted(outcomes)}


@contextmanager
def _fixed_world(*, exact: bool) -> Iterator[None]:
    """Seeds language detection, puts the fallback in place where it is needed, and silences the log's line for every
    answer without a language. Leaves all of it, and the state of `random`, as it was."""
    log = logging.getLogger(instructions.__name__)
    state, seed, level, checkers = random.getstate(), langdetect.DetectorFactory.seed, log.level, dict(_CHECKERS)
    langdetect.DetectorFactory.seed = 0
    log.setLevel(logging.CRITICAL)
    if not exact:
        _CHECKERS.update({SENTENCES: _SentencesWithoutPunkt, CAPITAL_WORDS: _CapitalWordsWithoutPunkt})
    try:
        yield
    finally:
        random.setstate(state)
        langdetect.DetectorFactory.seed = seed
        log.setLevel(level)
        _CHECKERS.update(checkers)


class _SentencesWithoutPunkt(instructions.NumberOfSentences):  # type: ignore[misc]
    def check_following(self, value: str) -> bool:
        wanted = self.get_instruction_args()
        return _compare(len(_sentence_splitter().tokenize(value)), wanted["relation"], wanted["num_sentences"])


class _CapitalWordsWithoutPunkt(instructions.CapitalWordFrequencyChecker):  # type: ignore[misc]
    def check_following(self, value: str) -> bool:
        wanted = self.get_instruction_args()
        tokenizer = NLTKWordTokenizer()
        words = [word for sentence in _sentence_splitter().tokenize(value) for word in tokenizer.tokenize(sentence)]
        return _compare(sum(map(str.isupper, words)), wanted["capital_relation"], wanted["capital_frequency"])


def _compare(count: int, relation: str, threshold: int) -> bool:
    return count < threshold if relation == "less than" else count >= threshold


@functools.cache
def _sentence_splitter() -> PunktSentenceTokenizer:
    """Punkt without its trained model: it knows the abbreviations, and no word that often begins a sentence."""
    parameters = PunktParameters()
    parameters.abbrev_types.update(_ABBREVIATIONS.split())
    return PunktSentenceTokenizer(parameters)
