"""The sections of a study.toml, each with its defaults; those of [base], [[data]] and [probe] are train.recipe's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from search.parameters import Value
from train.recipe import Fraction, Slug

TIME_OF_DAY = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"

Positive = Annotated[float, Field(gt=0.0)]
Hours = Annotated[float, Field(gt=0.0, le=10_000.0)]
Count = Annotated[int, Field(ge=1)]


class Frozen(BaseModel):
    """Immutable, closed to unknown keys, free of NaN and infinity, and strict about types."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class StudySection(Frozen):
    """[study]: its name, how long it goes on, and when trials report."""

    name: Slug
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    trials: Annotated[int, Field(ge=1, le=10_000)] = 24
    budget_hours: Hours = 8.0  # GPU-hours of all its nights together
    until: Annotated[str, Field(pattern=TIME_OF_DAY)] | None = None
    rungs: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (0.25, 0.5, 1.0)

    @model_validator(mode="after")
    def _rungs_rise(self) -> Self:
        if list(self.rungs) != sorted(set(self.rungs)) or self.rungs[0] <= 0 or self.rungs[-1] != 1.0:
            raise ValueError("rungs must rise from above 0 to exactly 1.0, like [0.25, 0.5, 1.0]")
        return self


class MachineSection(Frozen):
    """[machine]: where trials run."""

    device: Literal["cuda", "cpu"] = "cuda"
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    memory_gib: Positive | None = None
    checkpoint_minutes: Positive = 5.0

    @property
    def memory_bytes(self) -> int | None:
        """The memory that a trial may need at its peak; None: no limit was given."""
        return None if self.memory_gib is None else int(self.memory_gib * 2**30)


class ObjectiveSection(Frozen):
    """[objective]: what a trial is scored on."""

    prompts: Path
    subset: Count = 64
    max_new_tokens: Count = 512
    batch_size: Count = 16


class PrunerSection(Frozen):
    """[pruner]: which trials are stopped at a rung."""

    kind: Literal["median", "percentile", "none"] = "median"
    startup_trials: Annotated[int, Field(ge=0)] = 4
    percentile: Annotated[float, Field(gt=0.0, lt=100.0)] = 50.0


class FinalSection(Frozen):
    """[final]: what the frozen recipe may use."""

    hours: Annotated[float, Field(gt=0.0, le=24.0)] = 24.0
    max_epochs: Positive = 3.0
    max_new_tokens: Count = 1280


class Prior(Frozen):
    """[[prior]]: a recipe picked by hand, tried before the search picks any."""

    name: Slug
    params: dict[str, Value]
