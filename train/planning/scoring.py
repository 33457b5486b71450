"""What scoring costs: the memory and the seconds of answering prompts with the trained adapter. Pure, no torch.

Answering runs without autocast: on CUDA the adapters multiply in float32, and their inputs are copied for it. Memory is
checked against a simulation (train.planning.answering). No card has confirmed the seconds yet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from train.base import BaseFacts
from train.planning.flops import ATTENTION_EFFICIENCY, MATRIX_EFFICIENCY, MEMORY_EFFICIENCY, Speed, kernels
from train.planning.memory import Category, DeviceKind, weights
from train.recipe import Frozen


class Answers(NamedTuple):
    """What is asked: `prompts` of at most `prompt_tokens`, `at_once` of them together, with `new_tokens` at most."""

    prompts: int
    at_once: int
    prompt_tokens: int
    new_tokens: int


class Adapters(NamedTuple):
    """What answers beside the base: the outputs of each adapted module, the rank, all parameters."""

    modules: Mapping[str, int]
    rank: int
    parameters: int


class ScoreSeconds(Frozen):
    """An estimate of scoring at most: every answer as long as may be, which few are.

    `reading` passes the prompts through the model, `writing` makes one token of each answer after the other, in
    `a_token` seconds for a whole batch.
    """

    total: float
    reading: float
    writing: float
    a_token: float


def generating(facts: BaseFacts, adapters: Adapters, asked: Answers, device: DeviceKind) -> dict[Category, float]:
    """Bytes at the peak of answering a batch: in reading its prompts, or in writing the last token.

    The cache has a key and a value a token and layer; growing by a token copies a layer's keys, or values.
    """
    c = 2 if device == "cuda" else 4
    lasting: dict[Category, float] = {"weights": weights(facts, c), "adapters": 4.0 * adapters.parameters}
    read, written = asked.at_once * asked.prompt_tokens, asked.at_once * (asked.prompt_tokens + asked.new_tokens)
    a_token = 2 * c * facts.kv_heads * facts.head_dim
    reading: dict[Category, float] = {
        "activations": float(a_token * facts.layers * read),
        "workspace": _passing(facts, adapters, asked.at_once, asked.prompt_tokens, asked.prompt_tokens, c),
    }
    work = _passing(facts, adapters, asked.at_once, 1, asked.prompt_tokens + asked.new_tokens, c)
    writing: dict[Category, float] = {
        "activations": float(a_token * facts.layers * written),
        "workspace": max(work, a_token / 2 * written),
    }
    return lasting | max(reading, writing, key=lambda phase: sum(phase.values()))


def _passing(facts: BaseFacts, adapters: Adapters, rows: int, new: int, total: int, c: int) -> float:
    """Bytes beside the cache at the widest moment of a layer, `new` tokens of each row passing through it."""
    tokens, hidden, wide = rows * new, facts.hidden, facts.intermediate
    attention = facts.heads * facts.head_dim
    copy = 4 if c == 2 else 0  # bytes of a number that is copied to float32
    matrix = (c + 4 / 64) * hidden * wide  # out of its 4 bits, with its scales; some cards do without it for few rows

    def adapted(name: str, inputs: int, outputs: int, beside: int) -> float:
        made = copy * inputs + 4 * adapters.rank + (c + 8) * outputs  # the copy, the middle, the base's and two more
        return tokens * (made + c * beside) if name in adapters.modules else 0.0

    repeated = 2 * attention if new > 1 and facts.heads > facts.kv_heads else 0
    moments = {
        "attention": tokens * (c * (2 * attention + repeated) + 4 * facts.heads) + _bias(rows, new, total, c),
        "q_proj": adapted("q_proj", hidden, attention, 0),
        "v_proj": adapted("v_proj", hidden, facts.kv_heads * facts.head_dim, attention),
        "o_proj": adapted("o_proj", attention, hidden, attention),
        "gate_proj": hidden * c * tokens + adapted("gate_proj", hidden, wide, 0),
        "up_proj": hidden * c * tokens + max(2 * c * wide * tokens + matrix, adapted("up_proj", hidden, wide, wide)),
        "product": hidden * c * tokens + 3 * c * wide * tokens,
        "down_proj": hidden * c * tokens + adapted("down_proj", wide, hidden, wide),
    }
    inputs = 24 * tokens + 2 * c * facts.head_dim * tokens + rows * new * total  # ids, rotations, the mask
    return inputs + 3 * c * hidden * tokens + max(moments.values())


def _bias(rows: int, new: int, total: int, c: int) -> int:
    """The mask as numbers to add, its rows padded to whole 16s."""
    return c * rows * new * 16 * math.ceil(total / 16)


def score_seconds(facts: BaseFacts, adapters: Adapters, asked: Answers, speed: Speed) -> ScoreSeconds:
    """The estimate for a card: reading is bound by its matrix units, writing by its memory or by dispatches."""
    batches = math.ceil(asked.prompts / asked.at_once)
    memory = speed.bandwidth * MEMORY_EFFICIENCY
    launched = kernels(facts, len(adapters.modules), passes=1) * speed.dispatch_s
    tokens = asked.at_once * asked.prompt_tokens
    matrix = 2 * (facts.linear_parameters + adapters.parameters) * tokens / (speed.flops * MATRIX_EFFICIENCY)
    square = 2 * facts.layers * facts.heads * facts.head_dim * asked.prompt_tokens * tokens
    reading = max(
        launched, matrix + square / (speed.flops * ATTENTION_EFFICIENCY) + 2.5 * facts.linear_parameters / memory
    )
    cached = 4 * facts.kv_heads * facts.head_dim * facts.layers * (asked.prompt_tokens + asked.new_tokens / 2)
    moved = facts.linear_parameters * (1 / 2 + 1 / 64) + 2 * facts.vocab * facts.hidden + 4 * adapters.parameters
    a_token = max(launched, (moved + 3 * cached * asked.at_once) / memory)  # read, and copied as it grows
    writing = asked.new_tokens * a_token
    return ScoreSeconds(
        total=batches * (reading + writing), reading=batches * reading, writing=batches * writing, a_token=a_token
    )
