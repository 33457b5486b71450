"""Score: what a model is judged by, with its standard error, its detail and its cost. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ObjectiveError(Exception):
    """Prompts or answers that cannot be scored: the message says what is wrong, where, and what to do next."""


Z = 1.959963984540054  # of the normal distribution, for 95 %


class Frozen(BaseModel):
    """Immutable, closed to unknown keys, and free of NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


# The instruction types of IFEval (arXiv 2311.07911), all of which lm-eval's checkers know.
INSTRUCTIONS = frozenset(
    f"{family}:{name}"
    for family, names in {
        "change_case": ("capital_word_frequency", "english_capital", "english_lowercase"),
        "combination": ("repeat_prompt", "two_responses"),
        "detectable_content": ("number_placeholders", "postscript"),
        "detectable_format": (
            "constrained_response",
            "json_format",
            "multiple_sections",
            "number_bullet_lists",
            "number_highlighted_sections",
            "title",
        ),
        "keywords": ("existence", "forbidden_words", "frequency", "letter_frequency"),
        "language": ("response_language",),
        "length_constraints": (
            "nth_paragraph_first_word",
            "number_paragraphs",
            "number_sentences",
            "number_words",
        ),
        "punctuation": ("no_comma",),
        "startend": ("end_checker", "quotation"),
    }.items()
    for name in names
)


class Prompt(Frozen):
    """One IFEval-format prompt. `kwargs` holds one mapping for each instruction."""

    key: int
    prompt: Annotated[str, Field(min_length=1)]
    instruction_id_list: Annotated[tuple[str, ...], Field(min_length=1)]
    kwargs: tuple[dict[str, str | int | float | list[str] | None], ...]


class Answer(Frozen):
    """A model's answer to one prompt.

    `capped`: it was cut off by the length limit, not ended by the model. `decided`: its generation was ended because
    the prompt's strict verdict could no longer change.
    """

    text: str
    tokens: int
    capped: bool
    decided: bool = False


class Verdict(Frozen):
    """The checkers' verdicts on one answer: in `strict` and in `loose` one for each instruction.

    None: not known, because the answer was ended once the prompt's strict verdict was decided (`decided`). Its `loose`
    is all None then; its `strict` has a False, or is all True.
    """

    key: int
    instruction_id_list: tuple[str, ...]
    strict: tuple[bool | None, ...]
    loose: tuple[bool | None, ...]
    tokens: int
    capped: bool
    decided: bool = False

    @model_validator(mode="after")
    def _is_a_verdict(self) -> Self:
        n = len(self.instruction_id_list)
        if len(self.strict) != n or len(self.loose) != n:
            raise ValueError(f"{n} instructions need as many strict and loose verdicts")
        known = None not in self.strict or False in self.strict
        if not known or (None in self.strict + self.loose and not self.decided):
            raise ValueError("a verdict that is not known is that of an answer whose prompt was decided early")
        return self

    @property
    def followed(self) -> bool:
        """The strict verdict on the whole prompt: whether every instruction was followed. Always known."""
        return all(self.strict) if None not in self.strict else False

    @property
    def followed_loosely(self) -> bool | None:
        """The loose verdict on the whole prompt; None where the answer was ended early."""
        return None if None in self.loose else all(self.loose)


class Measure(Frozen):
    """A proportion with its standard error, sqrt(p (1 - p) / n)."""

    value: Annotated[float, Field(ge=0.0, le=1.0)]
    standard_error: Annotated[float, Field(ge=0.0)]
    n: int

    @classmethod
    def of(cls, outcomes: list[bool]) -> Measure:
        """The proportion of true outcomes; of none at all, 0 with standard error 0."""
        n = len(outcomes)
        p = sum(outcomes) / n if n else 0.0
        return cls(value=p, standard_error=math.sqrt(p * (1 - p) / n) if n else 0.0, n=n)

    @property
    def bound(self) -> float:
        """The end of Wilson's 95 % interval that is not the value's own, for one that is 0 or 1: there the standard
        error is 0, and says nothing of how sure the value is."""
        half = Z**2 / (self.n + Z**2)
        return half if self.value == 0.0 else 1.0 - half

    def __str__(self) -> str:
        if self.n and self.value in (0.0, 1.0):
            return f"{self.value:.3f}, {'≤' if self.value == 0.0 else '≥'} {self.bound:.3f}"
        return f"{self.value:.3f} ± {self.standard_error:.3f}"


class Score(Frozen):
    """IFEval's four metrics of one model on one fixed list of prompts.

    `prompt_strict` is the official headline, over all prompts; `clean` is the same without those that are known to be
    defective (objectives.defects), None where none is left. Where an answer was ended early because its prompt was
    decided, only these two are known: `prompt_loose`, `instruction_strict` and `instruction_loose` are None and
    `by_type` (strict, by instruction id) is empty.

    `looped` counts answers that end in a loop (objectives.loops), `empty` those without text. `exact` is false where a
    checker had to fall back (objectives.checkers), `halved` true where generation ran out of memory and went on with
    half the batch. `seconds` is generation plus checking.
    """

    prompt_strict: Measure
    clean: Measure | None
    prompt_loose: Measure | None
    instruction_strict: Measure | None
    instruction_loose: Measure | None
    by_type: dict[str, Measure]
    verdicts: tuple[Verdict, ...]
    looped: int
    empty: int
    prompts_sha256: str
    exact: bool
    seconds: float
    tokens: int
    halved: bool = False

    @classmethod
    def of(cls, verdicts: Sequence[Verdict], *, defective: Container[int] = (), **facts: Any) -> Self:
        """The measures of these verdicts; `defective` holds the keys that `clean` leaves out, `facts` all other fields.

        `tokens` are summed up.
        """
        whole = not any(v.decided for v in verdicts)
        clean = [v.followed for v in verdicts if v.key not in defective]
        return cls(
            prompt_strict=Measure.of([v.followed for v in verdicts]),
            clean=Measure.of(clean) if clean else None,
            prompt_loose=Measure.of([all(v.loose) for v in verdicts]) if whole else None,
            instruction_strict=Measure.of([bool(one) for v in verdicts for one in v.strict]) if whole else None,
            instruction_loose=Measure.of([bool(one) for v in verdicts for one in v.loose]) if whole else None,
            by_type=_by_type(verdicts) if whole else {},
            verdicts=tuple(verdicts),
            tokens=sum(v.tokens for v in verdicts),
            **facts,
        )

    @property
    def value(self) -> float:
        """The headline, which the search maximizes: prompt-level strict accuracy."""
        return self.prompt_strict.value

    @property
    def standard_error(self) -> float:
        """Standard error of the headline."""
        return self.prompt_strict.standard_error

    @property
    def capped_share(self) -> float:
        """Share of answers that the length limit cut off."""
        return sum(v.capped for v in self.verdicts) / len(self.verdicts) if self.verdicts else 0.0

    @property
    def remarks(self) -> list[str]:
        """What qualifies it, a line each: the clean headline, what became of the answers, and whether it is exact."""
        n = max(1, self.prompt_strict.n)
        lines = [
            f"answers cut off by the length limit: {self.capped_share:.1%}; ending in a loop: {self.looped / n:.1%}; "
            f"without text: {self.empty / n:.1%}"
        ]
        if self.clean and self.clean.n < n:
            lines.insert(0, f"without {n - self.clean.n} prompts that are known to be defective: {self.clean}")
        if not self.exact:
            lines.append(
                "not exact, since nltk has no punkt_tab. Before another run: python -m nltk.downloader punkt_tab"
            )
        if self.halved:
            lines.append("memory ran out: answered in half batches, in which answers may come out otherwise")
        return lines

    @property
    def decided_share(self) -> float:
        """Share of answers that were ended early because their prompt's strict verdict was decided."""
        return sum(v.decided for v in self.verdicts) / len(self.verdicts) if self.verdicts else 0.0


def _by_type(verdicts: Sequence[Verdict]) -> dict[str, Measure]:
    outcomes: dict[str, list[bool]] = {}
    for verdict in verdicts:
        for name, followed in zip(verdict.instruction_id_list, verdict.strict, strict=True):
            outcomes.setdefault(name, []).append(bool(followed))
    return {name: Measure.of(outcomes[name]) for name in sorted(outcomes)}
