"""Peak memory of a training step in closed form. Pure, no torch; derived in docs/memory.md.

Bytes. A micro-batch has T tokens in rows of S; H is the hidden size, I the intermediate size, A = heads x head_dim,
K = kv_heads x head_dim; a number of the forward pass has c bytes (2 on CUDA under bfloat16 autocast, 4 on the CPU).
A "wide" tensor has c I T bytes, a "narrow" one c H T. The peak of a step is that of its widest phase, and each
phase is widest at one of a few moments: the formulas are the sums of what is alive at these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Literal, NamedTuple

from train.base import BaseFacts
from train.targets import ATTENTION, MLP

DeviceKind = Literal["cuda", "cpu"]
StageName = Literal["sft", "dpo"]
Category = Literal["weights", "adapters", "gradients", "optimizer", "activations", "workspace", "loss", "context"]
Memory = dict[Category, float]

TILE_TOKENS, TILE_VOCABULARY = 4096, 32768  # of the head's tiles; see trl/kernels/chunked_logprob.py
_READ_TOGETHER = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))


class Step(NamedTuple):
    """What decides the memory of a training step, besides the model.

    `rows` and `length` are of sequences, a preference pair being two. `modules` has the parameters that train in all
    layers, by module; `sides` the elements of each adapter matrix of one layer.
    """

    device: DeviceKind
    stage: StageName
    rows: int
    length: int
    packed: bool
    accumulates: bool
    rank: int
    modules: Mapping[str, int]
    sides: tuple[int, ...]
    dropout: bool
    optimizer: str
    checkpointed: int  # layers
    whole: int  # layers whose activations are all kept
    dora: bool = False


def peaks(facts: BaseFacts, step: Step) -> dict[str, Memory]:
    """The categories' bytes at the peak of each phase of a step, without the context."""
    made = _Sizes(facts, step)
    marks = {"top": facts.layers - 1, "bottom": 0}
    if step.checkpointed and step.whole:
        marks |= {"lowest whole": step.checkpointed, "highest checkpointed": step.checkpointed - 1}
    phases = {"forward": _forward(made), "loss": _loss(made), "head": _head(made)}
    phases["step"] = made.with_(0.0, 4 * made.trained, inputs=0)
    return phases | {name: _backward(made, number) for name, number in marks.items()}


class _Sizes:
    """Sizes that several phases share."""

    def __init__(self, facts: BaseFacts, step: Step) -> None:
        self.facts, self.step = facts, step
        self.c = 2 if step.device == "cuda" else 4
        self.tokens = step.rows * step.length
        self.attention, self.kv = facts.heads * facts.head_dim, facts.kv_heads * facts.head_dim
        self.narrow = self.c * facts.hidden * self.tokens
        self.wide = self.c * facts.intermediate * self.tokens
        self.norm = (4 * facts.hidden + 4) * self.tokens  # a norm's input in float32, and its scale
        self.trained = sum(step.modules.values())
        self.copies = 2 * self.trained / facts.layers if self.c == 2 else 0.0  # a layer's adapters, cast by autocast
        numbers = facts.hidden * facts.intermediate
        self.matrix = self.c * numbers  # the largest matrix out of its 4 bits,
        self.scales = 4 * numbers / 64  # and its scales out of theirs
        self.mask = 0 if step.packed else step.rows * step.length**2
        self.bias = 0 if step.packed else self.c * step.rows * step.length * 16 * math.ceil(step.length / 16)
        positions = self.tokens if step.packed else step.length
        self.rotations = 2 * self.c * facts.head_dim * positions
        self.mask_byte = 1 if self.c == 2 else 4  # of dropout: truth values on CUDA, numbers on the CPU
        self.inputs = {linear.name: linear.inputs for linear in facts.linears}

    def has(self, *names: str) -> bool:
        """Whether any of the modules has an adapter."""
        return any(name in self.step.modules for name in names)

    def kept_by(self, *names: str) -> float:
        """Bytes of inputs that the adapters of these modules keep; without dropout they share theirs."""
        there = [name for name in names if name in self.step.modules]
        if self.step.dropout:
            return sum((self.c + self.mask_byte) * self.inputs[name] * self.tokens for name in there)
        if names == ("o_proj",) and not self.step.packed:
            return 0.0  # it reads what attention keeps
        return float(self.c * self.inputs[there[0]] * self.tokens) if there else 0.0

    @cached_property
    def attended(self) -> float:
        """What attention keeps: queries, keys, values, its output, a number a head, and the mask as numbers."""
        kv = self.kv if self.step.packed else self.attention  # a mask needs keys and values for every head
        return (self.c * (2 * self.attention + 2 * kv) + 4 * self.facts.heads) * self.tokens + self.bias

    @cached_property
    def saved(self) -> float:
        """What a layer keeps for its backward pass."""
        inputs = sum(self.kept_by(*names) for names in _READ_TOGETHER)
        middles = self.c * self.step.rank * len(self.step.modules) * self.tokens
        return 2 * self.norm + self.attended + 3 * self.wide + inputs + middles + self.copies + self.both_results

    @cached_property
    def both_results(self) -> float:
        """DoRA scales the base's and the adapter's result by themselves, and keeps both."""
        outputs = {linear.name: linear.outputs for linear in self.facts.linears}
        return 2.0 * self.c * self.tokens * sum(outputs[n] for n in self.step.modules) if self.step.dora else 0.0

    @cached_property
    def row_norms(self) -> float:
        """DoRA multiplies its adapter by an identity matrix of as many rows as the module has inputs."""
        widest = max((self.inputs[name] for name in self.step.modules), default=0)
        return (4.0 + self.c) * widest**2 + 2 * self.matrix if self.step.dora else 0.0

    @cached_property
    def saved_first(self) -> float:
        """The same for the first layer without checkpointing, whose input needs no gradient."""
        less: float = self.norm
        masked: tuple[str, ...] = ATTENTION[:3]
        if not self.has(*ATTENTION[:3]):
            output = 0 if self.step.packed else self.c * self.attention * self.tokens
            less += self.attended - (output if self.has("o_proj") else 0)
        if not self.has(*ATTENTION):
            masked += MLP[:2]
            unread = {(False, False): 3, (False, True): 2, (True, False): 1, (True, True): 0}
            less += self.norm + unread[self.has("gate_proj"), self.has("up_proj")] * self.wide
        if self.step.dropout:
            less += sum(self.mask_byte * self.inputs[name] for name in masked if self.has(name)) * self.tokens
        return self.saved - less

    def kept(self, checkpointed: int, whole: int) -> float:
        """What the first layers keep, that many of either kind."""
        first = self.saved if self.step.checkpointed else self.saved_first
        return checkpointed * self.narrow + (first + (whole - 1) * self.saved if whole else 0.0)

    @cached_property
    def lasting(self) -> Memory:
        step = self.step
        layers = self.trained / max(1, sum(step.sides))
        return {
            "weights": weights(self.facts, self.c),
            "adapters": 4.0 * self.trained * (2 if step.stage == "dpo" else 1),
            "optimizer": _optimizer(step.optimizer, step.sides) * layers,
        }

    def with_(self, activations: float, gradients: float | None = None, *, inputs: int = 1, **more: float) -> Memory:
        """The phase's categories; `inputs` counts the token ids, labels, positions and rotations."""
        batch = inputs * (24 * self.tokens + self.rotations)
        held: Memory = {
            **self.lasting,
            "gradients": (4 * self.trained if self.step.accumulates else 0) if gradients is None else gradients,
            "activations": batch + activations,
        }
        work = more["workspace"] + self.row_norms if "workspace" in more else 0.0
        return held | {"workspace": work, "loss": more.get("loss", 0.0)}


# The moments at which a layer is widest, as bytes above (or, where it is not done, below) what it keeps in the end


def _at_up(sizes: _Sizes) -> float:
    """Making the up projection; the product and what down's adapter keeps do not exist yet."""
    bare = sizes.wide + sizes.matrix + sizes.scales
    return (3 * sizes.wide if sizes.has("up_proj") else bare) - sizes.wide - sizes.kept_by("down_proj")


def _at_down(sizes: _Sizes, again: bool) -> float:
    """Making the down projection. Computed `again` in the backward pass, the gradient through the adapter waits."""
    if not sizes.has("down_proj"):
        return sizes.wide + sizes.narrow + sizes.matrix + sizes.scales
    waiting = 2 if again else 1
    multiplying = waiting * sizes.narrow + sizes.wide + sizes.matrix + sizes.scales - sizes.kept_by("down_proj")
    adapting = (sizes.wide if sizes.step.dropout else 0.0) + (2 if again else 3) * sizes.narrow
    return max(multiplying, adapting)


def _passing(sizes: _Sizes) -> float:
    """A layer that keeps nothing: the residual, the norm's output, and the widest of gate, up and their product."""
    adapted = 4 * sizes.wide if sizes.has("up_proj") else 0.0
    return 2 * sizes.narrow + max(adapted, 2 * sizes.wide + sizes.matrix + sizes.scales, 3 * sizes.wide)


def _norm_output(sizes: _Sizes) -> float:
    """The second norm's output, where no adapter keeps it."""
    return 0.0 if sizes.has("gate_proj", "up_proj") and not sizes.step.dropout else sizes.narrow


# Phases


def _forward(sizes: _Sizes) -> Memory:
    step = sizes.step
    kept = sizes.kept(step.checkpointed, step.whole) + sizes.mask + sizes.copies * step.checkpointed
    if not step.whole:
        return sizes.with_(kept, workspace=_passing(sizes))
    embeddings = 0.0 if step.checkpointed else sizes.narrow
    beside = 2 * sizes.narrow + _norm_output(sizes) + embeddings  # the layer's input and the residual
    return sizes.with_(kept, workspace=beside + max(_at_up(sizes), _at_down(sizes, again=False)))


def _loss(sizes: _Sizes) -> Memory:
    """The last norm and the head in tiles; in DPO also the reference's forward pass."""
    step, tokens = sizes.step, sizes.tokens
    last = 4 * sizes.facts.hidden * tokens  # the hidden states in float32
    tile = sizes.c * min(TILE_TOKENS, tokens) * TILE_VOCABULARY
    copies = sizes.copies * step.checkpointed  # those of whole layers are kept with them
    widest = last + 2 * sizes.narrow + tile + copies
    if step.stage == "dpo":
        embedded = last + 3 * sizes.narrow + sizes.rotations + sizes.mask
        widest = max(widest, embedded + copies + _passing(sizes))
    mask = sizes.mask if step.checkpointed else 0
    return sizes.with_(sizes.kept(step.checkpointed, step.whole) + mask, loss=widest)


def _head(sizes: _Sizes) -> Memory:
    """The way back through the head and the last norm."""
    step, tokens = sizes.step, sizes.tokens
    last, rows = 4 * sizes.facts.hidden * tokens, min(TILE_TOKENS, tokens)
    tile = sizes.c * rows * TILE_VOCABULARY
    torch_tiles = 0 if step.device == "cuda" else 4 * rows * min(TILE_VOCABULARY, sizes.facts.vocab)
    head = 2 * last + (2 if sizes.c == 2 else 1) * sizes.narrow + tile + 7.25 * torch_tiles
    widest = max(head, 5 * last + 2 * sizes.narrow)
    mask = sizes.mask if step.checkpointed else 0
    return sizes.with_(sizes.kept(step.checkpointed, step.whole) + mask, loss=widest)


def _backward(sizes: _Sizes, number: int) -> Memory:
    """The backward pass of the layer of that number, counted from 0, while those below keep what they keep."""
    step, down = sizes.step, sizes.has("down_proj")
    kept = sizes.kept(min(number + 1, step.checkpointed), max(0, number - step.checkpointed))
    own = sizes.saved if number or step.checkpointed else sizes.saved_first
    through = (2 if down else 1) * sizes.wide + sizes.matrix
    work = max(through, 3 * sizes.wide) - sizes.kept_by("down_proj")
    if number < step.checkpointed:
        again = _at_down(sizes, again=True) if down else _at_up(sizes) + sizes.wide
        work = max(work, sizes.narrow + _norm_output(sizes) + again)
    above = 4 * sizes.trained * (step.checkpointed + step.whole - 1 - number) / sizes.facts.layers
    mask = sizes.mask if step.checkpointed else 0
    return sizes.with_(kept + mask, None if step.accumulates else above, workspace=own + work + sizes.narrow)


# What lasts


def weights(facts: BaseFacts, width: int) -> float:
    """Bytes of the base model: its matrices in NF4, all else in numbers of `width` bytes."""
    nf4 = sum(nf4_bytes(linear.inputs * linear.outputs) * linear.count for linear in facts.linears)
    return nf4 + width * (facts.parameters - facts.linear_parameters)


def nf4_bytes(elements: int) -> int:
    """Bytes of a matrix in NF4 with double quantization: 4 bits an element, a byte for each 64, 4 for each 16,384;
    every tensor is rounded up to 512, and two tables and an offset are tensors too."""
    parts = (elements / 2, elements / 64, elements / 4096)
    return sum(512 * math.ceil(part / 512) for part in parts) + 512 + 1024 + 512


def _optimizer(name: str, sides: tuple[int, ...]) -> float:
    """Bytes of the states of one layer's adapters: bitsandbytes keeps matrices below 4,096 elements in 32 bits."""
    if name == "adamw":
        return 8.0 * sum(sides)
    return float(sum(2 * n + 8 * math.ceil(n / 256) if n >= 4096 else 8 * n for n in sides))
