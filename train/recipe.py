"""The Recipe: a frozen, complete, hashable description of one training run. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Targets = Literal["all-linear", "attention", "attention-qv", "mlp"]
Schedule = Literal["cosine", "linear", "constant"]
Optimizer = Literal["adamw", "adamw_8bit", "paged_adamw_8bit"]


class RecipeError(Exception):
    """A run that cannot be made as asked: the message says what is wrong, where, and what to do next."""


class Frozen(BaseModel):
    """Immutable, closed to unknown keys, and free of NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class Base(Frozen):
    """The base model: a local folder or a hub id. `revision` pins a hub id to a commit; `sha256` pins the weights."""

    model: Annotated[str, Field(min_length=1)]
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    sha256: Sha256 | None = None


class Source(Frozen):
    """One data set: a JSONL file (`path`) or a hub data set (`hub`, pinned by `revision`).

    `use` says which stage learns from it: "sft" rows are prompt/response or chat messages, "preference" rows are
    prompt/chosen/rejected. `weight` is the source's share of its stage, relative to the other sources of that stage.
    """

    name: Slug
    path: str | None = None
    hub: str | None = None
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    split: str = "train"
    use: Literal["sft", "preference"] = "sft"
    weight: Annotated[float, Field(ge=0.0)] = 1.0
    sha256: Sha256 | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError(f"data source {self.name!r} needs exactly one of path and hub")
        return self


class Probe(Frozen):
    """Held-out responses on which every rung is measured, in bits per byte. Never trained on.

    `rows` are taken evenly from `sources` (empty: from every sft source), chosen by the hash of their text, so that
    every trial of a study sees the same ones.
    """

    rows: Annotated[int, Field(ge=1, le=4096)] = 64
    sources: tuple[Slug, ...] = ()


class Recipe(Frozen):
    """Everything that decides the weights of one run. Two equal recipes on equal hardware give equal weights.

    The horizon is `examples`, the training examples consumed, not counting repeats apart; schedules and rungs are
    fractions of it, so that a longer run of the same recipe changes `examples` and nothing else.
    """

    base: Base
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    probe: Probe = Probe()
    chat_template: str | None = None  # Jinja; None: the tokenizer's own
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    threads: Annotated[int, Field(ge=1, le=256)] = 1  # on a CPU the order of sums, hence the weights, depend on it

    examples: Annotated[int, Field(ge=1)]
    rows: Annotated[int, Field(ge=1)] | None = None  # distinct sft rows to draw from; None: all
    max_length: Annotated[int, Field(ge=8)] = 1024

    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    alpha_ratio: Annotated[float, Field(gt=0.0, le=64.0)] = 2.0  # lora_alpha = alpha_ratio * rank
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    targets: Targets = "all-linear"

    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 2e-4
    schedule: Schedule = "cosine"
    warmup: Fraction = 0.03  # fraction of the stage
    weight_decay: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 1.0
    optimizer: Optimizer = "adamw"
    batch_size: Annotated[int, Field(ge=1)] = 16  # examples an optimizer step
    micro_batch_size: Annotated[int, Field(ge=1)] = 1  # examples of full length a forward pass
    packing: bool = True  # several short examples in the place of a long one, in the sft stage; see train.packing
    gradient_checkpointing: bool = False

    dpo_share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0  # share of the horizon given to DPO; 0: no DPO stage
    dpo_beta: Annotated[float, Field(gt=0.0)] = 0.1
    dpo_learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 5e-6

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise ValueError(f"data sources share a name: {sorted(names)}")
        if not any(source.use == "sft" and source.weight > 0 for source in self.sources):
            raise ValueError("no sft data source has a weight above 0")
        if self.dpo_share > 0 and not any(source.use == "preference" for source in self.sources):
            raise ValueError("dpo_share is above 0, but no data source has use = 'preference'")
        if missing := sorted(set(self.probe.sources) - {s.name for s in self.sources if s.use == "sft"}):
            raise ValueError(f"probe.sources names {missing}, which are not sft data sources")
        if self.batch_size % self.micro_batch_size:
            raise ValueError(f"batch_size {self.batch_size} is no multiple of micro_batch_size {self.micro_batch_size}")
        if self.examples < self.batch_size:
            raise ValueError(f"examples {self.examples} is less than one batch of {self.batch_size}")
        return self

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole horizon."""
        return self.examples // self.batch_size

    @property
    def dpo_steps(self) -> int:
        """Optimizer steps of the DPO stage, the last ones of the horizon."""
        return min(self.steps - 1, math.ceil(self.steps * self.dpo_share))

    @property
    def sft_steps(self) -> int:
        """Optimizer steps of the supervised stage."""
        return self.steps - self.dpo_steps

    def step_at(self, fraction: float) -> int:
        """The step at which `fraction` of the horizon is done, at least 1."""
        return max(1, math.ceil(self.steps * fraction))

    def canonical_json(self) -> str:
        """The same text for equal recipes: sorted keys, ASCII, no spaces."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()
