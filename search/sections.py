"""The sections of a study.toml, each with its defaults; those of [base], [[data]] and [probe] are train.recipe's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from search.parameters import Value
from train.recipe import Fraction, Slug
from train.until import TIME_OF_DAY

STAGES = (24, 48)  # prompts after which a trial may be ended, where a study does not say
AUTO = "auto"  # gradient_checkpointing in [recipe]: the plan chooses; see search.plan_choice

Positive = Annotated[float, Field(gt=0.0)]
Hours = Annotated[float, Field(gt=0.0, le=10_000.0)]
Count = Annotated[int, Field(ge=1)]


class Frozen(BaseModel):
    """Immutable, closed to unknown keys, free of NaN and infinity, and strict about types."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class StudySection(Frozen):
    """[study]: its name, how long it goes on, and when trials report.

    Once the trials are over, so many `finalists`, the best ones, race on prompts that none of them was asked.
    """

    name: Slug
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    trials: Annotated[int, Field(ge=1, le=10_000)] = 24
    budget_hours: Hours = 8.0  # GPU-hours of all its nights together
    until: Annotated[str, Field(pattern=TIME_OF_DAY)] | None = None
    finalists: Annotated[int, Field(ge=0, le=10)] = 3  # 0: no race
    rungs: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (0.25, 0.5, 1.0)

    @model_validator(mode="after")
    def _rungs_rise(self) -> Self:
        if list(self.rungs) != sorted(set(self.rungs)) or self.rungs[0] <= 0 or self.rungs[-1] != 1.0:
            raise ValueError("rungs must rise from above 0 to exactly 1.0, like [0.25, 0.5, 1.0]")
        return self


class MachineSection(Frozen):
    """[machine]: where trials run. One that gives no sign of life for `hang_minutes` is ended."""

    device: Literal["cuda", "cpu"] = "cuda"
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    memory_gib: Positive | None = None
    checkpoint_minutes: Positive = 5.0
    hang_minutes: Positive = 20.0

    @property
    def memory_bytes(self) -> int | None:
        """The memory that a trial may need at its peak; None: no limit was given."""
        return None if self.memory_gib is None else int(self.memory_gib * 2**30)


class ObjectiveSection(Frozen):
    """[objective]: what a trial is scored on.

    `subset` is how many prompts of the search half every trial is compared on; after each of `stages` prompts, a trial
    that is worse than the best so far is asked no more. A good trial is ended so with probability `error_rate` at most.
    With `decided_rows` an answer is generated only until its strict verdict can no longer change.
    """

    prompts: Path
    subset: Count = 64
    stages: tuple[int, ...]  # STAGES below the subset, where the file does not say
    error_rate: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    decided_rows: bool = True
    max_new_tokens: Count = 512
    batch_size: Count = 16

    @model_validator(mode="before")
    @classmethod
    def _has_stages(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "stages" in given:
            return given
        subset = given.get("subset", cls.model_fields["subset"].default)
        return {**given, "stages": tuple(stage for stage in STAGES if isinstance(subset, int) and stage < subset)}

    @field_validator("stages")
    @classmethod
    def _stages_rise(cls, stages: tuple[int, ...], known: ValidationInfo) -> tuple[int, ...]:
        if list(stages) != sorted(set(stages)) or min(stages, default=1) < 1:
            raise ValueError("stages must rise from 1 or more on, like [24, 48]")
        subset = known.data.get("subset")
        if stages and subset is not None and stages[-1] >= subset:
            raise ValueError(f"every stage must be below subset, which is {subset}; {stages[-1]} is not")
        return stages


class PrunerSection(Frozen):
    """[pruner]: which trials are stopped at a rung."""

    kind: Literal["median", "percentile", "none"] = "median"
    startup_trials: Annotated[int, Field(ge=0)] = 4
    percentile: Annotated[float, Field(gt=0.0, lt=100.0)] = 50.0


class FinalSection(Frozen):
    """[final]: what the frozen recipe may use, and whether its learning rates are lowered for its longer horizon.

    `licences` states, by the name of a data source or for "base", a licence that Nightshift does not know.
    `allow_overlap` lets data be frozen that may share text with the prompts of the score.
    """

    hours: Annotated[float, Field(gt=0.0, le=24.0)] = 24.0
    checkpoint_minutes: Positive = 20.0
    max_epochs: Positive = 3.0
    max_new_tokens: Count = 1280
    correct_learning_rate: bool = True
    licences: dict[str, Annotated[str, Field(min_length=1, max_length=200)]] = {}
    allow_overlap: bool = False


class Prior(Frozen):
    """[[prior]]: a recipe picked by hand, tried before the search picks any."""

    name: Slug
    params: dict[str, Value]
