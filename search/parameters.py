"""What a study may search: the one table of it, and the kinds of range that a parameter of a space can have.

A parameter is a field of Recipe, or `weight.NAME` for the weight of the data source NAME in the mixture. Fields that
do not decide how good a model gets, or that the freeze sets, are not searched; `UNSEARCHABLE` says why.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from search.studyfile import nearest, spelled
from search.validation import explain, frozen_lists, value_of
from train.recipe import Recipe, Source

Value = float | int | str | bool
WEIGHT = "weight."


class Condition(NamedTuple):
    """What makes a parameter matter: that another one, `on`, is `equal` or, where that is None, above 0."""

    on: str
    equal: str | None = None

    def holds(self, value: Value | None) -> bool:
        """Whether it does, where `on` has this value; None stands for 0."""
        return value == self.equal if self.equal is not None else float(value or 0) > 0

    def __str__(self) -> str:
        return f"{self.on} > 0" if self.equal is None else f'{self.on} = "{self.equal}"'


_WITH_DPO = Condition("dpo_share")
SEARCHABLE: Mapping[str, Condition | None] = {
    "learning_rate": None,
    "loraplus_ratio": None,
    "schedule": None,
    "warmup": None,
    "decay": Condition("schedule", "wsd"),
    "weight_decay": None,
    "max_grad_norm": None,
    "optimizer": None,
    "adam_beta2": None,
    "batch_size": None,
    "rank": None,
    "alpha_ratio": None,
    "dropout": None,
    "targets": None,
    "use_rslora": None,
    "use_dora": None,
    "neftune_alpha": None,
    "rows": None,
    "max_length": None,
    "dpo_share": None,
    "dpo_loss": _WITH_DPO,
    "dpo_beta": _WITH_DPO,
    "dpo_learning_rate": _WITH_DPO,
}
UNSEARCHABLE: Mapping[str, str] = {
    "base": "a study has one base model; set it in [base]",
    "sources": "data sets are listed in [[data]]; search their shares with weight.NAME, their size with rows",
    "probe": "every trial is measured on the same rows; set them in [probe]",
    "seed": "searching for luck finds nothing that lasts; set it in [study]",
    "threads": "it changes speed, not quality; set it in [machine]",
    "chat_template": "scores under different templates do not compare; set it in [recipe]",
    "examples": "it is the length of a trial, which the final run stretches; set it in [recipe], and search rows",
    "micro_batch_size": "it changes memory and speed, not quality; set it in [recipe], and search batch_size",
    "packing": "it changes speed, not what is learned; set it in [recipe]",
    "gradient_checkpointing": "it changes memory and speed, not quality; set it in [recipe]",
    "uncheckpointed_layers": "it changes memory and speed, not quality; set it in [recipe]",
}


class _Range(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    @property
    def first(self) -> Value:
        """The low end, or the first choice."""
        raise NotImplementedError

    @property
    def ends(self) -> tuple[Value, ...]:
        """The values that decide whether all others are allowed: both ends, or every choice."""
        raise NotImplementedError

    def contains(self, value: Value) -> bool:
        """Whether the search can suggest `value`."""
        raise NotImplementedError


class FloatRange(_Range):
    """Numbers from low to high, both included; uniform in the logarithm with `log`, on a grid from low with `step`."""

    low: float
    high: float
    log: bool = False
    step: Annotated[float, Field(gt=0.0)] | None = None

    @model_validator(mode="after")
    def _sound(self) -> Self:
        _check_ends(self.low, self.high, self.step, self.log)
        return self

    @property
    def first(self) -> Value:
        return self.low

    @property
    def ends(self) -> tuple[Value, ...]:
        return self.low, self.high

    def contains(self, value: Value) -> bool:
        if not self.low <= float(value) <= self.high:
            return False
        return self.step is None or _on_grid(float(value), self.low, self.step)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}" + (f" in steps of {self.step:g}" if self.step else "")


class IntRange(_Range):
    """Whole numbers from low to high, both included, as FloatRange; without `step` every one of them."""

    low: int
    high: int
    log: bool = False
    step: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _sound(self) -> Self:
        _check_ends(self.low, self.high, self.step, self.log)
        return self

    @property
    def first(self) -> Value:
        return self.low

    @property
    def ends(self) -> tuple[Value, ...]:
        return self.low, self.high

    def contains(self, value: Value) -> bool:
        return isinstance(value, int) and self.low <= value <= self.high and (value - self.low) % (self.step or 1) == 0

    def __str__(self) -> str:
        return f"{self.low} to {self.high}" + (f" in steps of {self.step}" if self.step else "")


class Choice(_Range):
    """One of a few values, in no order."""

    choices: Annotated[tuple[bool | int | float | str, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _different(self) -> Self:
        _check_different(self.choices)
        return self

    @property
    def first(self) -> Value:
        return self.choices[0]

    @property
    def ends(self) -> tuple[Value, ...]:
        return self.choices

    def contains(self, value: Value) -> bool:
        return value in self.choices

    def __str__(self) -> str:
        return "one of " + ", ".join(map(spelled, self.choices))


Parameter = FloatRange | IntRange | Choice


def field_of(name: str) -> FieldInfo:
    """The Recipe field (or, for `weight.NAME`, the Source field) whose constraints hold for that parameter."""
    return Source.model_fields["weight"] if name.startswith(WEIGHT) else Recipe.model_fields[name]


def condition(name: str) -> Condition | None:
    """What has to hold for `name` to matter; None where it always does."""
    return SEARCHABLE.get(name)


def unsearchable(name: str, sources: tuple[str, ...]) -> str:
    """Why `name` cannot be in a space, or an empty string. `sources` are the names of the data sources."""
    if name.startswith(WEIGHT):
        source = name.removeprefix(WEIGHT)
        return "" if source in sources else f"no [[data]] has this name; {nearest(source, sources)}"
    if name in SEARCHABLE:
        return ""
    if name in UNSEARCHABLE:
        return f"it cannot be searched: {UNSEARCHABLE[name]}"
    return f"unknown key; {nearest(name, [*SEARCHABLE, *(WEIGHT + source for source in sources)])}"


def parse(name: str, raw: object) -> Parameter:
    """The range of one parameter out of `{low, high, log, step}` or `{choices}`.

    Raises ValueError with one line for each thing wrong; every end and choice has to be a value that Recipe allows.
    """
    info = field_of(name)
    model = _model_for(info, raw)
    parameter = _built(model, raw)
    problems, values = [], []
    for end in parameter.ends:
        try:
            values.append(value_of(info, end))
        except ValueError as error:
            problems += str(error).split("\n")
    if problems:
        raise ValueError("\n".join(dict.fromkeys(problems)))
    if isinstance(parameter, Choice):  # 0 for a float field becomes 0.0, and may so become a second 0.0
        _check_different(tuple(values))
        return Choice(choices=tuple(values))
    return parameter


def _built(model: type[FloatRange] | type[IntRange] | type[Choice], raw: object) -> Parameter:
    try:
        return model.model_validate(frozen_lists(raw))
    except ValidationError as error:
        raise ValueError("\n".join(_explained(model, e) for e in _unique(error))) from None


def _unique(error: ValidationError) -> list[Any]:
    """The errors, one for each place: a union of types would give one for each of its members."""
    by_place = {e["loc"][:2] if e["loc"][:1] == ("choices",) else e["loc"]: e for e in error.errors(include_url=False)}
    return list(by_place.values())


def _explained(model: type[BaseModel], details: Any) -> str:
    where = ".".join(str(part) for part in details["loc"][:1])
    if details["loc"][:1] == ("choices",) and len(details["loc"]) > 1:
        return f"choices: {spelled(details['input'])} is no number, text or truth value"
    text = explain(details, "above 0", model.model_fields)
    return f"{where}: {text}" if where else text


def _model_for(info: FieldInfo, raw: object) -> type[FloatRange] | type[IntRange] | type[Choice]:
    kind = _kind(info)
    if isinstance(raw, (list, tuple)):
        raise ValueError("it is a list; write { choices = [...] }")
    if not isinstance(raw, dict):
        raise ValueError(
            f"it is {spelled(raw)}, one fixed value, which belongs in [recipe]; a parameter is "
            "{ low = ..., high = ... } or { choices = [...] }"
        )
    if "choices" in raw:
        return Choice
    if kind is None:
        allowed = ", ".join(_words(info.annotation)) or "true, false"
        raise ValueError(f"it is no number; write {{ choices = [...] }} with some of {allowed}")
    return IntRange if kind is int else FloatRange


def _kind(info: FieldInfo) -> type[int] | type[float] | None:
    """int or float for a field of numbers (also an optional one), None for one of words."""
    parts = list(_parts(info.annotation))
    return next((kind for kind in (float, int) if kind in parts), None)


def _words(annotation: Any) -> list[str]:
    """The words that a field names, also as a part of what it takes."""
    return [word for part in _parts(annotation) if get_origin(part) is Literal for word in get_args(part)]


def _parts(annotation: Any) -> Iterator[Any]:
    """A type and, where it is a union or annotated, those inside of it."""
    yield annotation
    if get_origin(annotation) in (Union, UnionType, Annotated):
        for part in get_args(annotation):
            yield from _parts(part)


def _check_ends(low: float, high: float, step: float | None, log: bool) -> None:
    if low > high:
        raise ValueError(f"low {low:g} is above high {high:g}; swap them")
    if log and low <= 0:
        raise ValueError(f"log = true needs a low above 0, and low is {low:g}; raise it or leave log out")
    if log and step is not None:
        raise ValueError("log and step exclude each other; leave one of them out")
    if step is not None and not _on_grid(high, low, step):
        best = float(
            Decimal(str(low)) + (Decimal(str(high)) - Decimal(str(low))) // Decimal(str(step)) * Decimal(str(step))
        )
        raise ValueError(f"high {high:g} is not low plus a multiple of step {step:g}; the nearest below is {best:g}")


def _on_grid(value: float, low: float, step: float) -> bool:
    steps = (value - low) / step
    return math.isclose(steps, round(steps), abs_tol=1e-8)


def _check_different(choices: tuple[Value, ...]) -> None:
    seen: set[tuple[bool, Value]] = set()
    for choice in choices:
        key = (isinstance(choice, bool), choice)
        if key in seen:
            raise ValueError(f"choices holds {spelled(choice)} twice; keep one")
        seen.add(key)
