"""Licences of base models and data sets: which are open, what each asks, and which one holds for what a run uses.

A licence is known from the catalogue, from the card in the folder of a model or data set (its README.md, whose tag
is looked up in the table below and is never more than a key to it), or because the study states it. It holds what
the repository of the data says; this is no legal advice. Imports no torch.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from train.catalog import LLAMA_TERMS, QWEN_RESEARCH_TERMS, known, known_data
from train.hub import hub_folder
from train.recipe import Frozen, RecipeError, Source

BASE = "base"  # what the base model is called beside the names of the data sources

_SHARE = "what is made of it goes under the same licence"
_NO_TRADE = "not for commercial use"

# Licences that let anybody train on the thing and publish the result, by SPDX id, and what they ask beyond keeping
# notices and naming authors. LicenseRef- stands for terms that SPDX's list has not.
CONDITIONS = {
    "Apache-2.0": "",
    "BSD-2-Clause": "",
    "BSD-3-Clause": "",
    "CC-BY-3.0": "",
    "CC-BY-4.0": "",
    "CC-BY-NC-4.0": _NO_TRADE,
    "CC-BY-NC-SA-3.0": f"{_NO_TRADE}; {_SHARE}",
    "CC-BY-NC-SA-4.0": f"{_NO_TRADE}; {_SHARE}",
    "CC-BY-SA-3.0": _SHARE,
    "CC-BY-SA-4.0": _SHARE,
    "CC0-1.0": "",
    "CDLA-Permissive-2.0": "",
    "LicenseRef-Llama-3.1-Community": LLAMA_TERMS,
    "LicenseRef-Llama-3.2-Community": LLAMA_TERMS,
    "LicenseRef-Qwen-Research": QWEN_RESEARCH_TERMS,
    "MIT": "",
    "ODC-By-1.0": "",
}
_TAGS = {"llama3.1": "LicenseRef-Llama-3.1-Community", "llama3.2": "LicenseRef-Llama-3.2-Community"}
_TAGS |= {"odc-by": "ODC-By-1.0", "qwen-research": "LicenseRef-Qwen-Research"} | {id.lower(): id for id in CONDITIONS}
_CARD_LINE = re.compile(r"^license(?:_name)?:[ \t]*[\"']?([A-Za-z0-9.+-]{1,64})[\"']?[ \t]*$", re.MULTILINE)

By = Literal["catalogue", "card", "study", "accepted"]


class Licence(Frozen):
    """The licence of one thing that a run uses, and who says so: the catalogue, its card, the study, or its user, who
    "accepted" terms that are not known here. `terms` are the conditions, empty where it asks for none."""

    licence: str
    by: By
    terms: str = ""

    def __str__(self) -> str:
        said = {"card": ", as its card says", "study": ", as [final] states", "accepted": ""}.get(self.by, "")
        return f"{self.licence}{said}" + (f": {self.terms}" if self.terms else "")


ACCEPTED = Licence(licence="not known", by="accepted", terms="accepted by whoever froze the run")


def stated(text: str) -> Licence:
    """A licence that a study states; one of the table gets its conditions."""
    spdx = _TAGS.get(text.lower(), text)
    return Licence(licence=spdx, by="study", terms=CONDITIONS.get(spdx, ""))


def of_base(model: str, folder: str | None) -> Licence | None:
    """The licence of a base model by its hub id, or else by the card in its folder; None where neither tells."""
    if found := known(model):
        return Licence(licence=found.licence, by="catalogue", terms=_terms(found.licence, found.terms))
    return _of_card(Path(folder)) if folder else None


def of_source(source: Source) -> Licence | None:
    """The licence of a data set on the hub, by its id or its card; None for a file, and where neither tells."""
    if source.hub is None:
        return None
    if found := known_data(source.hub):
        return Licence(licence=found.licence, by="catalogue", terms=_terms(found.licence, found.terms))
    try:
        return _of_card(hub_folder(source.hub, "dataset", source.revision))
    except RecipeError:
        return None  # whoever reads the data says what is wrong


def _terms(licence: str, more: str) -> str:
    conditions = CONDITIONS.get(licence, "")
    return "; ".join(dict.fromkeys(text for text in (conditions, more) if text))


def _of_card(folder: Path) -> Licence | None:
    """The licence that the front matter of a README.md names, where it is in the table."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    head = text.split("\n---", 1)[0] if text.startswith("---") else ""
    for tag in _CARD_LINE.findall(head):
        if spdx := _TAGS.get(tag.lower()):
            return Licence(licence=spdx, by="card", terms=CONDITIONS[spdx])
    return None
