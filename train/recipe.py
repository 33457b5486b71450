"""The Recipe: a frozen, complete, hashable description of one training run. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from train.targets import Targets

Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Schedule = Literal["cosine", "linear", "constant", "wsd"]
Optimizer = Literal["adamw", "adamw_8bit", "paged_adamw_8bit"]
# Those of TRL's losses whose gradient is the mean over pairs (so that it does not depend on how a batch is split) and
# that need no setting besides beta.
DPOLoss = Literal[
    "sigmoid",
    "sigmoid_norm",
    "hinge",
    "ipo",
    "apo_zero",
    "apo_down",
    "bco_pair",
    "nca_pair",
    "sppo_hard",
    "discopop",
]


class RecipeError(Exception):
    """A run that cannot be made as asked: the message says what is wrong, where, and what to do next."""


class Frozen(BaseModel):
    """Immutable, closed to unknown keys, and free of NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class Base(Frozen):
    """The base model: a local folder or a hub id. `revision` pins a hub id to a commit; `sha256` pins the weights.

    `allow_instruct` goes on with a model that was tuned for chat already, which is refused otherwise.
    """

    model: Annotated[str, Field(min_length=1)]
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    sha256: Sha256 | None = None
    allow_instruct: bool = False


class Fields(Frozen):
    """What a data set calls its fields, by what data.rows calls them: `prompt = "question"`. None: it has none."""

    prompt: str | None = None
    context: str | None = None
    response: str | None = None
    system: str | None = None
    messages: str | None = None
    chosen: str | None = None
    rejected: str | None = None


def _path_alone(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


class PromptFile(Frozen):
    """A JSONL file of evaluation prompts (a field `prompt` on each line); `sha256` pins its bytes."""

    path: str
    sha256: Sha256 | None = None


class Filters(Frozen):
    """Which rows of a source are left out, each kind counted (train.data.filters says how each decides).

    Lengths are those of the answer, of both answers of a pair. `languages` are ISO 639-1 codes; empty: all. `overlap`
    drops prompts that share eight words in a row with one in the files of `overlap_with`; a study adds the prompts
    that it scores on. On are those filters whose absence would make a score a lie or a row count twice: overlap and
    exact duplicates. The others are a matter of taste.
    """

    min_chars: Annotated[int, Field(ge=0)] = 0
    max_chars: Annotated[int, Field(ge=1)] | None = None
    min_words: Annotated[int, Field(ge=0)] = 0
    max_words: Annotated[int, Field(ge=1)] | None = None
    languages: tuple[Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-zA-Z]{2})?$")], ...] = ()
    duplicates: Literal["keep", "exact", "near"] = "exact"
    similarity: Annotated[float, Field(ge=0.7, le=1.0)] = 0.8  # near: the share of three-word sequences in common
    refusals: Literal["keep", "drop"] = "keep"
    overlap: Literal["keep", "drop"] = "drop"
    overlap_with: tuple[Annotated[PromptFile, BeforeValidator(_path_alone)], ...] = ()
    bad_rows: Literal["refuse", "drop"] = "refuse"  # rows that cannot be read; a person can mend them in their own file

    @model_validator(mode="after")
    def _some_length_is_left(self) -> Self:
        for unit, low, high in (("chars", self.min_chars, self.max_chars), ("words", self.min_words, self.max_words)):
            if high is not None and low > high:
                raise ValueError(f"min_{unit} is {low}, above max_{unit}, which is {high}: no row could stay")
        return self


def _refused(streaming: bool) -> bool:
    if streaming:
        raise ValueError(
            "streaming data sets are refused: no run could be repeated, or resumed exactly; leave it out (`rows` takes "
            "a part of a large data set)"
        )
    return streaming


class Source(Frozen):
    """One data set: a JSONL file (`path`) or a hub data set (`hub`, pinned by `revision`).

    `use` says which stage learns from it: "sft" rows are prompt/response or chat messages, "preference" rows are
    prompt/chosen/rejected. `weight` is the source's share of its stage, relative to the other sources of that stage.
    `format` names the data set's structure ("auto": told by its columns), or `fields` maps its columns. `answers`
    "every" makes a row of each answer of a longer chat, not of the last one alone. `rows` is the most that are taken,
    after the filters, by the hash of their text; `sha256` pins the data as it is before them.
    """

    name: Slug
    path: str | None = None
    hub: str | None = None
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    split: str = "train"
    use: Literal["sft", "preference"] = "sft"
    weight: Annotated[float, Field(ge=0.0)] = 1.0
    sha256: Sha256 | None = None
    format: Literal["auto", "dolly", "oasst", "lima", "ultrafeedback"] = "auto"
    fields: Fields = Fields()
    answers: Literal["last", "every"] = "last"
    rows: Annotated[int, Field(ge=2)] | None = None
    filters: Filters = Filters()
    streaming: Annotated[bool, AfterValidator(_refused), Field(exclude=True, repr=False)] = False

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError(f"data source {self.name!r} needs exactly one of path and hub")
        if self.path is not None and self.split != "train":
            raise ValueError(f"data source {self.name!r}: a file has no splits; leave out split, or name another file")
        if self.format != "auto" and self.fields != Fields():
            raise ValueError(f"data source {self.name!r} has a format, which names the fields: give one of the two")
        if self.use == "preference" and (self.format in ("dolly", "oasst", "lima") or self.answers == "every"):
            key = "format" if self.answers == "last" else "answers"
            raise ValueError(f"data source {self.name!r}: this {key} is for sft data; leave out use, or {key}")
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

    examples: Annotated[int, Field(ge=1, le=100_000_000)]
    rows: Annotated[int, Field(ge=1)] | None = None  # distinct sft rows to draw from; None: all
    max_length: Annotated[int, Field(ge=8)] = 1024

    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    alpha_ratio: Annotated[float, Field(gt=0.0, le=64.0)] = 2.0  # lora_alpha = alpha_ratio * rank
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    targets: Targets = "all-linear"  # a named set, a list of module names, or a regular expression for whole names
    use_rslora: bool = False  # scale by alpha / sqrt(rank) instead of alpha / rank (arXiv 2312.03732)
    use_dora: bool = False  # learn the norm of each row of a weight by itself (arXiv 2402.09353); slower
    neftune_alpha: Annotated[float, Field(ge=0.0, le=100.0)] = 0.0  # noise on the embeddings of the sft stage; 0: none

    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 2e-4
    loraplus_ratio: Annotated[float, Field(ge=1.0, le=64.0)] = 1.0  # B learns this many times faster than A; 1: alike
    schedule: Schedule = "cosine"
    warmup: Fraction = 0.03  # fraction of the stage
    decay: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2  # of the schedule "wsd": fraction of the stage, at its end
    weight_decay: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 1.0
    optimizer: Optimizer = "adamw"
    adam_beta2: Annotated[float, Field(ge=0.5, lt=1.0)] = 0.999  # how long the optimizer remembers squared gradients
    batch_size: Annotated[int, Field(ge=1)] = 16  # examples an optimizer step
    micro_batch_size: Annotated[int, Field(ge=1)] = 1  # examples of full length a forward pass
    packing: bool = True  # several short examples in the place of a long one, in the sft stage; see train.packing
    gradient_checkpointing: bool = False
    uncheckpointed_layers: Annotated[int, Field(ge=0)] = 0  # with it: the last layers that keep their activations

    dpo_share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0  # share of the horizon given to DPO; 0: no DPO stage
    dpo_loss: DPOLoss = "sigmoid"
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
        if self.dpo_share > 0 and not any(source.use == "preference" and source.weight > 0 for source in self.sources):
            raise ValueError("dpo_share is above 0, but no preference data source has a weight above 0")
        if missing := sorted(set(self.probe.sources) - {s.name for s in self.sources if s.use == "sft"}):
            raise ValueError(f"probe.sources names {missing}, which are not sft data sources")
        if self.batch_size % self.micro_batch_size:
            raise ValueError(f"batch_size {self.batch_size} is no multiple of micro_batch_size {self.micro_batch_size}")
        if self.examples < self.batch_size:
            raise ValueError(f"examples {self.examples} is less than one batch of {self.batch_size}")
        if self.uncheckpointed_layers and not self.gradient_checkpointing:
            raise ValueError(
                f"uncheckpointed_layers is {self.uncheckpointed_layers}, and gradient_checkpointing is off, so that no "
                "layer is checkpointed: set gradient_checkpointing = true, or leave uncheckpointed_layers out"
            )
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
        return canonical(self.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()


def canonical(value: Mapping[str, Any]) -> str:
    """JSON with sorted keys, in ASCII, without spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def digest_of(frozen: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of what a final_run.py holds, but for the key "sha256", which has this digest, and
    the path of the prompts, which a move to another machine changes and whose content has a digest of its own."""
    held = {key: value for key, value in frozen.items() if key != "sha256"}
    held["objective"] = {key: value for key, value in frozen["objective"].items() if key != "prompts"}
    return hashlib.sha256(canonical(held).encode()).hexdigest()
