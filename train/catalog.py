"""Base models that are known by name: their size, their licence, and whether the hub asks before it gives them.

Any other causal language model of the same family works as well, by hub id or by folder. Imports no torch.
"""

from __future__ import annotations

import difflib

from pydantic import BaseModel, ConfigDict


class KnownBase(BaseModel):
    """A base model on the hub.

    `licence` is an SPDX expression; LicenseRef- stands for terms that are not in SPDX's list, told in `terms`. `gated`:
    the hub wants an account and a yes to the terms before it gives the files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    family: str
    parameters: int
    licence: str
    gated: bool = False
    terms: str = ""


_LLAMA_TERMS = (
    "acceptable use policy; a model made of it is to be named Llama-..., with 'Built with Llama' where it is offered; "
    "no licence for those with over 700 million users a month"
)

BASES = (
    KnownBase(
        id="meta-llama/Llama-3.1-8B",
        family="Llama 3",
        parameters=8_030_261_248,
        licence="LicenseRef-Llama-3.1-Community",
        gated=True,
        terms=_LLAMA_TERMS,
    ),
    KnownBase(
        id="meta-llama/Llama-3.2-3B",
        family="Llama 3",
        parameters=3_212_749_824,
        licence="LicenseRef-Llama-3.2-Community",
        gated=True,
        terms=_LLAMA_TERMS,
    ),
    KnownBase(
        id="meta-llama/Llama-3.2-1B",
        family="Llama 3",
        parameters=1_235_814_400,
        licence="LicenseRef-Llama-3.2-Community",
        gated=True,
        terms=_LLAMA_TERMS,
    ),
    KnownBase(id="mistralai/Mistral-7B-v0.3", family="Mistral", parameters=7_248_023_552, licence="Apache-2.0"),
    KnownBase(id="Qwen/Qwen2.5-7B", family="Qwen2.5", parameters=7_615_616_512, licence="Apache-2.0"),
    KnownBase(
        id="Qwen/Qwen2.5-3B",
        family="Qwen2.5",
        parameters=3_085_938_688,
        licence="LicenseRef-Qwen-Research",
        terms="research and evaluation only; anything commercial needs another licence from Alibaba Cloud",
    ),
    KnownBase(id="Qwen/Qwen2.5-1.5B", family="Qwen2.5", parameters=1_543_714_304, licence="Apache-2.0"),
    KnownBase(id="Qwen/Qwen2.5-0.5B", family="Qwen2.5", parameters=494_032_768, licence="Apache-2.0"),
)


def known(model: str) -> KnownBase | None:
    """What is known of the hub id `model`; case does not matter."""
    return next((base for base in BASES if base.id.lower() == model.lower()), None)


def siblings(base: KnownBase) -> tuple[KnownBase, ...]:
    """The smaller ones of its family, the largest first: to try a study on."""
    return tuple(other for other in BASES if other.family == base.family and other.parameters < base.parameters)


def nearest(model: str) -> str | None:
    """The known id that a misspelt one most likely means; None where none is near."""
    names = {base.id.lower(): base.id for base in BASES}
    names |= {name.rpartition("/")[2]: known_id for name, known_id in names.items()}
    for asked in (model.lower(), model.lower().rpartition("/")[2]):
        if close := difflib.get_close_matches(asked, names, n=1, cutoff=0.8):
            return names[close[0]]
    return None
