"""What is known of recipes before a study's first trial has ended: a prior mean over the study's own ranges.

It is the field's knowledge, which every user has: adapters on all linear layers (Dettmers et al., QLoRA, 2023), LoRA's
learning rate about ten times that of full fine-tuning and so in the upper part of what people search, small batches, a
rank that is not too small (Schulman et al., LoRA Without Regret, 2025; Biderman et al., LoRA Learns Less and Forgets
Less, 2024), little dropout, preference pairs after instructions (Lambert et al., Tulu 3, 2024). Nothing is believed of
high learning rates, nor of how much of a data set to take.

A prior mean alone, however weak, holds a search that it misleads: nothing contradicts it, as nothing else is tried. So
each belief only says where to begin and which values matter; how right it is, down to its opposite, is learned with
the rest (search.surrogate.DOUBT).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from search.parameters import Choice, Parameter
from search.points import Array, Points, amounts, values

# Logits of the share of prompts followed, from a parameter's lowest value to its highest.
RISES: Mapping[str, float] = {"rank": 0.3, "batch_size": -0.4, "dropout": -0.2, "dpo_share": 0.2}
TARGETS: Mapping[str, float] = {"all-linear": 0.4, "attention-qv": 0.0}
OTHER_TARGETS = 0.2
RATE = "learning_rate"
HIGH, FALL = 0.65, 0.6  # how far up its range a learning rate is high enough; what the lowest one loses to those


def promises(points: Points, places: Array) -> Array:
    """Of recipes at these places, shape (recipes, parameters): how many logits more than others each parameter's value
    promises. Together they are the prior mean; how far each is to be trusted is the surrogate's to find out."""
    columns = [_promise(name, parameter, places[:, n]) for n, (name, parameter) in enumerate(points.space.items())]
    return np.column_stack(columns)


def _promise(name: str, parameter: Parameter, places: Array) -> Array:
    if name == "targets" and isinstance(parameter, Choice):
        return np.array([TARGETS.get(str(value), OTHER_TARGETS) for value in values(parameter, places)])
    if name == RATE:
        return -FALL * np.maximum(0.0, 1.0 - amounts(parameter, places) / HIGH) ** 2
    if name in RISES:
        return RISES[name] * amounts(parameter, places)
    return np.zeros(len(places))
