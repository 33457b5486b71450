"""Base models and data sets that are known by name: size, licence, and whether the hub asks before it gives them.

Any other causal language model of the same family works as well, by hub id or by folder, and so does any other data.
Imports no torch.
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


LLAMA_TERMS = (
    "acceptable use policy; a model made of it is to be named Llama-..., with 'Built with Llama' and a copy of the "
    "licence where it is offered; no licence for those with over 700 million users a month"
)
QWEN_RESEARCH_TERMS = "research and evaluation only; anything commercial needs another licence from Alibaba Cloud"

BASES = (
    KnownBase(
        id="meta-llama/Llama-3.1-8B",
        family="Llama 3",
        parameters=8_030_261_248,
        licence="LicenseRef-Llama-3.1-Community",
        gated=True,
        terms=LLAMA_TERMS,
    ),
    KnownBase(
        id="meta-llama/Llama-3.2-3B",
        family="Llama 3",
        parameters=3_212_749_824,
        licence="LicenseRef-Llama-3.2-Community",
        gated=True,
        terms=LLAMA_TERMS,
    ),
    KnownBase(
        id="meta-llama/Llama-3.2-1B",
        family="Llama 3",
        parameters=1_235_814_400,
        licence="LicenseRef-Llama-3.2-Community",
        gated=True,
        terms=LLAMA_TERMS,
    ),
    KnownBase(id="mistralai/Mistral-7B-v0.3", family="Mistral", parameters=7_248_023_552, licence="Apache-2.0"),
    KnownBase(id="Qwen/Qwen2.5-7B", family="Qwen2.5", parameters=7_615_616_512, licence="Apache-2.0"),
    KnownBase(
        id="Qwen/Qwen2.5-3B",
        family="Qwen2.5",
        parameters=3_085_938_688,
        licence="LicenseRef-Qwen-Research",
        terms=QWEN_RESEARCH_TERMS,
    ),
    KnownBase(id="Qwen/Qwen2.5-1.5B", family="Qwen2.5", parameters=1_543_714_304, licence="Apache-2.0"),
    KnownBase(id="Qwen/Qwen2.5-0.5B", family="Qwen2.5", parameters=494_032_768, licence="Apache-2.0"),
)


class KnownData(BaseModel):
    """A data set on the hub. `licence` is an SPDX expression; `terms` what holds beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    licence: str
    gated: bool = False
    terms: str = ""


DATA = (
    KnownData(id="databricks/databricks-dolly-15k", licence="CC-BY-SA-3.0"),
    KnownData(id="OpenAssistant/oasst1", licence="Apache-2.0"),
    KnownData(
        id="GAIR/lima",
        licence="CC-BY-NC-SA-4.0",
        gated=True,
        terms="its card names CC BY-NC-SA without a version; where a source has stricter terms, those hold",
    ),
    KnownData(
        id="HuggingFaceH4/ultrafeedback_binarized",
        licence="MIT",
        terms="its answers were written by models whose own terms may limit what is trained on them, GPT-4 among them",
    ),
    KnownData(id="google/IFEval", licence="Apache-2.0"),  # the prompts of the score
)
# In the names of chat models that neither say so with a mark nor end texts as chats do
TUNED_FAMILIES = (
    *("alpaca", "dolphin", "guanaco", "hermes", "koala", "neural-chat", "openchat", "openhermes", "starling", "tulu"),
    *("vicuna", "wizardlm", "zephyr"),
)


def known(model: str) -> KnownBase | None:
    """What is known of the hub id `model`; case does not matter."""
    return next((base for base in BASES if base.id.lower() == model.lower()), None)


def known_data(hub: str) -> KnownData | None:
    """What is known of the data set with the hub id `hub`; case does not matter."""
    return next((data for data in DATA if data.id.lower() == hub.lower()), None)


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
