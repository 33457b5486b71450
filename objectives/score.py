"""Score: what a model is judged by, with its standard error, its detail and its cost. Imports no torch."""

from __future__ import annotations

import math
from typing import Annotated, Protocol

from pydantic import BaseModel, ConfigDict, Field


class ObjectiveError(Exception):
    """Prompts or answers that cannot be scored: the message says what is wrong, where, and what to do next."""


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
    """A model's answer to one prompt. `capped`: it was cut off by the length limit, not ended by the model."""

    text: str
    tokens: int
    capped: bool


class Verdict(Frozen):
    """The checkers' verdicts on one answer; `strict` and `loose` hold one bool for each instruction."""

    key: int
    instruction_id_list: tuple[str, ...]
    strict: tuple[bool, ...]
    loose: tuple[bool, ...]
    tokens: int
    capped: bool


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

    def __str__(self) -> str:
        return f"{self.value:.3f} ± {self.standard_error:.3f}"


class Score(Frozen):
    """IFEval's four metrics of one model on one fixed list of prompts.

    `exact` is false where a checker had to fall back (see objectives.ifeval). `seconds` is generation plus checking.
    """

    prompt_strict: Measure
    prompt_loose: Measure
    instruction_strict: Measure
    instruction_loose: Measure
    by_type: dict[str, Measure]  # strict, by instruction id
    verdicts: tuple[Verdict, ...]
    prompts_sha256: str
    exact: bool
    seconds: float
    tokens: int

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


class Generate(Protocol):
    """Prompts in, answers out, in the same order."""

    def __call__(self, prompts: list[str]) -> list[Answer]: ...


class Objective(Protocol):
    """Judges a model, seen only through its answers."""

    def score(self, generate: Generate) -> Score: ...
