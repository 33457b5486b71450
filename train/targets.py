"""Which linear modules LoRA is put on: the sets that have a name, and what a list or a regular expression picks.

Imports no torch: the plan and the model ask here alike, by the names of a model's modules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Literal

from pydantic import PlainSerializer, PlainValidator

TargetSet = Literal["all-linear", "attention", "attention-qv", "mlp"]

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
TARGET_MODULES: dict[str, tuple[str, ...]] = {
    "all-linear": ATTENTION + MLP,
    "attention": ATTENTION,
    "attention-qv": ("q_proj", "v_proj"),
    "mlp": MLP,
}

_MODULE = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_PATTERN_SIGNS = frozenset(r".*+?[](){}|^$\\")
_IN_A_LAYER = re.compile(r"(?:^|\.)\d+\.")
_ALLOWED = (
    "it must be 'all-linear', 'attention', 'attention-qv' or 'mlp', a list of module names like "
    '["q_proj", "v_proj"], or a regular expression for whole names of modules like ' + r"'.*\.(q|v)_proj'"
)


def checked(value: object) -> str | tuple[str, ...]:
    """`value` where it can be targets: a set's name, a regular expression, or names, which become sorted and single.

    Raises ValueError, which says what would be right. Whether a model has such modules is seen when one is at hand.
    """
    if isinstance(value, str):
        return _checked_text(value)
    if not isinstance(value, (tuple, list)) or not value:
        raise ValueError(f"it is {value!r}; {_ALLOWED}")
    for name in value:
        if name in TARGET_MODULES:
            raise ValueError(f"{name} in it is a set of modules; write it alone, not in a list")
        if not isinstance(name, str) or not _MODULE.fullmatch(name):
            raise ValueError(f"{name!r} in it is no name of a module; {_ALLOWED}")
    return tuple(sorted(set(value)))


def _checked_text(text: str) -> str:
    if text in TARGET_MODULES:
        return text
    if not _PATTERN_SIGNS & set(text):
        raise ValueError(f"it is {json.dumps(text)}; {_ALLOWED}")
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"it is {json.dumps(text)}, no regular expression ({error}); {_ALLOWED}") from None
    return text


_AS_IT_IS = PlainSerializer(lambda targets: targets)  # else pydantic warns when a tuple becomes a list in JSON
Targets = Annotated[TargetSet | str | tuple[str, ...], PlainValidator(checked), _AS_IT_IS]


def picked(modules: Iterable[str], targets: str | Sequence[str]) -> list[str]:
    """Those of `modules` (names like model.layers.0.self_attn.q_proj) that `targets` means, in their order.

    A name in a list means every module that it is the end of, as in PEFT; a regular expression has to match the whole
    name. What lies outside of the numbered layers, such as the head, is never picked: it is not quantized.
    """
    means = _meaning(targets)
    return [module for module in modules if _IN_A_LAYER.search(module) and means(module)]


def _meaning(targets: str | Sequence[str]) -> Callable[[str], bool]:
    if isinstance(targets, str) and targets not in TARGET_MODULES:
        pattern = re.compile(targets)
        return lambda module: pattern.fullmatch(module) is not None
    names = TARGET_MODULES[targets] if isinstance(targets, str) else targets
    ends = tuple(f".{name}" for name in names)
    return lambda module: f".{module}".endswith(ends)


def described(targets: str | Sequence[str]) -> str:
    """What `targets` looks for, in words for a message: targets = 'mlp' puts LoRA on gate_proj, up_proj, down_proj."""
    if not isinstance(targets, str):
        return f"targets = {list(targets)} puts LoRA on these modules"
    if targets in TARGET_MODULES:
        return f"targets = {targets!r} puts LoRA on {', '.join(TARGET_MODULES[targets])}"
    return f"targets = {targets!r} puts LoRA on modules whose whole name it matches"
