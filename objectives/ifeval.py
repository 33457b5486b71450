"""IFEval: prompts whose instructions a program can check, and a Score of the answers to them.

The checkers are lm-eval's (objectives.checkers).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from objectives.checkers import CHECKERS, Check, fixed_world, judge
from objectives.decided import Decider
from objectives.defects import defective
from objectives.loops import ends_in_loop
from objectives.prompt_errors import grouped
from objectives.score import Answer, ObjectiveError, Prompt, Score, Verdict
from objectives.sentences import NEED_PUNKT, punkt_available

_FIELDS = ("key", "prompt", "instruction_id_list", "kwargs")
_MOST_ERRORS = 20


def load_prompts(path: Path | str) -> tuple[Prompt, ...]:
    """Read prompts from a JSONL file in IFEval's format: key, prompt, instruction_id_list, kwargs; other fields are
    left out.

    Raises ObjectiveError with every error of the file at once, one that recurs with its first line: not JSON, a field
    missing or of a wrong type, an unknown instruction id, missing or unusable kwargs, a key that occurs twice.
    """
    prompts: list[Prompt] = []
    errors: list[tuple[str, str]] = []
    first_seen: dict[int, int] = {}
    with fixed_world():  # the checkers are tried
        parsed = [(number, *_parse(line)) for number, line in _lines(Path(path))]
    for number, prompt, wrong in parsed:
        if prompt is not None:
            prompts.append(prompt)
            first = first_seen.setdefault(prompt.key, number)
            if first != number:
                wrong.append(f"key {prompt.key} is already that of line {first}; give every prompt its own key")
        place = f"line {number}, key {prompt.key}" if prompt else f"line {number}"
        errors += [(place, error) for error in dict.fromkeys(wrong)]
    if errors:
        told = grouped(errors, _MOST_ERRORS)
        raise ObjectiveError(f"{path} is no file of IFEval prompts:\n  " + "\n  ".join(told))
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
        if name not in CHECKERS:
            nearest = difflib.get_close_matches(name, CHECKERS, n=1, cutoff=0.0)
            wrong.append(f"unknown instruction id {name!r}; the nearest one is {nearest[0]!r}")
        elif absent := [k for k in CHECKERS[name](name).get_instruction_args_keys() if not kwargs.get(k)]:
            wrong.append(f"kwargs of {name} lack {', '.join(absent)} (absent, null, 0 or empty)")
        elif problem := _unusable(prompt, index):
            wrong.append(f"kwargs of {name} cannot be used: {problem}")
    return wrong


def _unusable(prompt: Prompt, index: int) -> str | None:
    """What a checker says when it is tried on a word, or None where it works: kwargs may be of a wrong type, unknown to
    it, or no regular expression where it takes one. Call it inside `fixed_world`."""
    try:
        Check(prompt, index, exact=False)("word")
    except Exception as error:  # whatever a checker of lm-eval raises on bad kwargs
        return f"{type(error).__name__}: {error}"
    return None


def prompts_sha256(prompts: Sequence[Prompt]) -> str:
    """SHA-256 of the prompts in their order: equal for equal prompts, whatever file they came from."""
    rows = [prompt.model_dump(mode="json") for prompt in prompts]
    return hashlib.sha256(json.dumps(rows, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


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

    def check(self, answers: Sequence[Answer], *, seconds: float = 0.0) -> Score:
        """Judge one answer for each prompt, in the prompts' order. The same answers always give the same verdicts.

        `seconds` is what the answers took; the checking is added to it. An empty answer follows nothing.
        """
        assert len(answers) == len(self.prompts), f"{len(answers)} answers to {len(self.prompts)} prompts"
        started = self._clock()
        with fixed_world():
            verdicts = [_judge(p, a, exact=self.punkt) for p, a in zip(self.prompts, answers, strict=True)]
        return Score.of(
            verdicts,
            looped=sum(ends_in_loop(answer.text) for answer in answers),
            empty=sum(not answer.text.strip() for answer in answers),
            defective=defective(self.prompts),
            prompts_sha256=self.prompts_sha256,
            exact=self.exact,
            seconds=seconds + self._clock() - started,
        )


def samples(prompts: Sequence[Prompt], answers: Sequence[Answer], score: Score) -> list[dict[str, Any]]:
    """The lines of samples.jsonl, one for each prompt. `strict` and `loose` are the verdicts on the whole prompt; where
    the answer was ended early (`decided`), `loose` is null."""
    return [
        {
            "key": prompt.key,
            "prompt": prompt.prompt,
            "response": answer.text,
            "strict": verdict.followed,
            "loose": verdict.followed_loosely,
            "capped": answer.capped,
            "decided": answer.decided,
        }
        for prompt, answer, verdict in zip(prompts, answers, score.verdicts, strict=True)
    ]


def _judge(prompt: Prompt, answer: Answer, *, exact: bool) -> Verdict:
    strict, loose = judge(prompt, answer.text, exact=exact, loosely=not answer.decided)
    return Verdict(
        key=prompt.key,
        instruction_id_list=prompt.instruction_id_list,
        strict=_known(prompt, answer.text, strict) if answer.decided else tuple(strict),
        loose=(None,) * len(strict) if answer.decided else tuple(loose),
        tokens=answer.tokens,
        capped=answer.capped,
        decided=answer.decided,
    )


def _known(prompt: Prompt, text: str, strict: list[bool]) -> tuple[bool | None, ...]:
    """Of the verdicts on an answer that was ended early, those that no continuation could have changed."""
    final = Decider(prompt)(text)
    return tuple(None if sure is None else followed for sure, followed in zip(final, strict, strict=True))
