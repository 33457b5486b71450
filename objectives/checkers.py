"""lm-eval's checkers of IFEval's instructions, made repeatable; the only file that imports lm_eval.

As they come, the checkers of 4 of the 25 types do not give the same verdict each time: three detect languages with an
unseeded sampler, and `letter_frequency` draws a letter where the prompt's is none. Here the sampler has a seed and
reads its languages in a fixed order, and the draw is seeded by the prompt, so that the same answers give the same
verdicts, in whichever order they come and on any machine.

Two types (SENTENCES, CAPITAL_WORDS) need nltk's trained sentence splitter, `punkt_tab`. Where it is not installed they
fall back on the same algorithm with a fixed list of abbreviations in place of the training, and the Score of prompts
that need it says `exact = False` (docs/checking.md names the verdicts that changed on published answers).
"""

from __future__ import annotations

import functools
import logging
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import langdetect.detector
import langdetect.detector_factory
import lm_eval.tasks  # noqa: F401  heavy: before the checkers, see _no_download
from nltk.tokenize.destructive import NLTKWordTokenizer

from objectives.score import Prompt
from objectives.sentences import CAPITAL_WORDS, SENTENCES, fallback


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
    from lm_eval.tasks.ifeval import instructions, instructions_registry

CHECKERS: Mapping[str, Any] = instructions_registry.INSTRUCTION_DICT


class Check:
    """lm-eval's checker of one instruction of a prompt, made once for all the texts that it is asked about.

    Made as lm-eval makes it, but seeded by the prompt, so that what a checker draws (the letter of a `letter_frequency`
    that names none) is the same each time. Raises whatever the checker raises on kwargs that it cannot use.
    """

    def __init__(self, prompt: Prompt, index: int, *, exact: bool) -> None:
        name = prompt.instruction_id_list[index]
        kind = CHECKERS[name] if exact else FALLBACKS.get(name, CHECKERS[name])
        random.seed(prompt.key)
        self._checker = kind(name)
        self._checker.build_description(**{key: value for key, value in prompt.kwargs[index].items() if value})
        arguments = self._checker.get_instruction_args()
        if arguments and "prompt" in arguments:
            self._checker.build_description(prompt=prompt.prompt)

    def __call__(self, text: str) -> bool:
        """Whether the text follows the instruction, as it stands. Blank text follows none."""
        try:
            return bool(text.strip()) and bool(self._checker.check_following(text))
        except RecursionError:  # thousands of nested brackets under json_format
            return False


def judge(prompt: Prompt, text: str, *, exact: bool, loosely: bool = True) -> tuple[list[bool], list[bool]]:
    """The strict verdict on each instruction of the prompt, and the loose one (none unless `loosely`).

    The loose verdict is that on the best of the text's variants. The text itself is one of them, so that what was
    followed strictly is not looked at again. Call it inside `fixed_world`.
    """
    checks = [Check(prompt, index, exact=exact) for index in range(len(prompt.instruction_id_list))]
    strict = [check(text) for check in checks]
    if not loosely:
        return strict, []
    others = variants(text) if not all(strict) else ()
    return strict, [followed or any(map(check, others)) for check, followed in zip(checks, strict, strict=True)]


def variants(text: str) -> Sequence[str]:
    """The other texts that lm-eval's loose verdicts try, each once: without the first line, the last, or both, and each
    without asterisks (`test_instruction_following_loose` in its tasks/ifeval/utils.py)."""
    lines = text.split("\n")
    shorter = ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    every = [variant.replace("*", "") for variant in (text, *shorter)] + shorter
    return [variant for variant in dict.fromkeys(every) if variant != text]


@contextmanager
def fixed_world() -> Iterator[None]:
    """Seeds language detection, and silences the log's line for every answer without a language. Leaves that, and the
    state of `random`, as it was."""
    log, factory = logging.getLogger(instructions.__name__), langdetect.detector_factory
    before = random.getstate(), factory._factory, log.disabled
    factory._factory = _languages()
    log.disabled = True  # a new level would empty every logger's cache, as often as this is entered
    try:
        yield
    finally:
        random.setstate(before[0])
        factory._factory = before[1]
        log.disabled = before[2]


@functools.cache
def _languages() -> Any:
    """langdetect's detectors with a seed, their languages in alphabetical order. It reads them in the order of the
    folder's entries, which is another on each machine, and sums of floats depend on it."""
    profiles = sorted(Path(langdetect.detector_factory.PROFILES_DIRECTORY).iterdir())
    factory = _Detectors()
    factory.load_json_profile([profile.read_text(encoding="utf-8") for profile in profiles])
    factory.seed = 0
    return factory


class _Detectors(langdetect.DetectorFactory):  # type: ignore[misc]
    def _create_detector(self) -> Any:
        return _Detector(self)


class _Detector(langdetect.detector.Detector):  # type: ignore[misc]
    """langdetect's, with the same products of the same floats in its innermost loop, in a third of the time."""

    def _update_lang_prob(self, prob: list[float], word: str, alpha: float) -> None:
        weight = alpha / self.BASE_FREQ
        prob[:] = [p * (weight + q) for p, q in zip(prob, self.word_lang_prob_map[word], strict=True)]


class _SentencesWithoutPunkt(instructions.NumberOfSentences):  # type: ignore[misc]
    def check_following(self, value: str) -> bool:
        wanted = self.get_instruction_args()
        return _compare(len(fallback().tokenize(value)), wanted["relation"], wanted["num_sentences"])


class _CapitalWordsWithoutPunkt(instructions.CapitalWordFrequencyChecker):  # type: ignore[misc]
    def check_following(self, value: str) -> bool:
        wanted = self.get_instruction_args()
        count = sum(map(_capital_words, fallback().tokenize(value)))
        return _compare(count, wanted["capital_relation"], wanted["capital_frequency"])


@functools.lru_cache(maxsize=1024)  # the variants of a text share most of their sentences
def _capital_words(sentence: str) -> int:
    return sum(map(str.isupper, NLTKWordTokenizer().tokenize(sentence)))


FALLBACKS = {SENTENCES: _SentencesWithoutPunkt, CAPITAL_WORDS: _CapitalWordsWithoutPunkt}


def _compare(count: int, relation: str, threshold: int) -> bool:
    return count < threshold if relation == "less than" else count >= threshold
