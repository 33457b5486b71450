"""What a final run reads beside its own file: which of it goes into a bundle, where it has to lie, and how to get it.

A hub's models and data are named by id and commit, and fetched by whoever runs it. What lies in files here has no such
name, and nobody else has it: it is carried where that is allowed and light, and else has to be put into its place, told
by its digest. In the bundle all of it lies below `inputs/`, and the recipe names it from there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from search.errors import SearchError
from search.export_subject import Subject
from train import room
from train.licences import BASE, CONDITIONS, Licence
from train.recipe import Source
from train.rundir import Json
from train.shards import weight_files

PROMPTS = "prompts"
LIGHT = 64 * 2**20  # bytes; a file of more is a matter of its own
PLACE = "./inputs"  # with ./ a path is never taken for a hub's id


@dataclass(frozen=True)
class Input:
    """Something that the run reads. `place` is where it lies in the bundle, None for what is on the hub; `files` are
    those that are carried, `why_not` says why they are not."""

    name: str
    what: str
    place: str | None
    sha256: str | None
    licence: Licence | None
    origin: Json
    files: Mapping[str, Path]
    why_not: str = ""
    path: Path | None = None  # where it lies here, if it is one file

    @property
    def manifest(self) -> Json:
        """As the manifest tells it."""
        licence = self.licence.model_dump(mode="json") if self.licence else None
        carried = self.place is not None and not self.why_not
        return {
            "name": self.name,
            "what": self.what,
            **self.origin,
            "sha256": self.sha256,
            "licence": licence,
            "in_the_bundle": carried,
            "place": self.place,
            "access": self.access,
        }

    @property
    def access(self) -> str:
        """How somebody else comes by it."""
        if self.place is None:
            return "final_run.py fetches it from the hub by id and commit; where it asks for an account: hf auth login"
        if not self.why_not:
            return "it is in the bundle"
        return f"not in the bundle ({self.why_not}): put it to {self.place}; its SHA-256 is {self.sha256}"


def inputs(subject: Subject, folder: Path, objective: Json, carry: Collection[str]) -> list[Input]:
    """Everything that the final run in `folder` reads; `carry` names what is carried whatever its licence and size.

    Raises SearchError where `carry` names nothing that is here.
    """
    found = [_base(subject, carry), *(_source(subject, source, folder, carry) for source in subject.recipe.sources)]
    prompts = Path(folder, objective["prompts"])
    found.append(
        _file(PROMPTS, "the prompts of the score", prompts, objective["prompts_sha256"], None, f"{PROMPTS}.jsonl")
    )
    found += _overlaps(subject, folder, objective)
    here = [one.name for one in found if one.place is not None]
    if unknown := sorted(set(carry) - set(here)):
        raise SearchError(f"--carry {unknown[0]}: this is none of the files that the run reads here: {', '.join(here)}")
    return found


def _base(subject: Subject, carry: Collection[str]) -> Input:
    base, facts, licence = subject.recipe.base, subject.model.facts, subject.licences.get(BASE)
    if facts.revision is not None:
        at = {"hub": base.model, "revision": facts.revision}
        return Input(BASE, "the base model", None, facts.sha256, licence, at, {})
    folder = Path(str(facts.folder))
    files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file() and _belongs(path, folder)}
    size = sum(path.stat().st_size for path in files.values())
    place = f"{PLACE}/base"
    why_not = "" if BASE in carry else _why_not(licence, size)
    kept = {} if why_not else {f"{place[2:]}/{name}": path for name, path in files.items()}
    origin: Json = {"folder": folder.name, "files": sorted(files), "bytes": size}
    return Input(BASE, "the base model", place, facts.sha256, licence, origin, kept, why_not)


def _belongs(path: Path, folder: Path) -> bool:
    """Whether a file of a model's folder is one that is read, or its licence and card."""
    return (
        path in weight_files(folder) or path.suffix in (".json", ".jinja", ".model", ".txt", ".md") or not path.suffix
    )


def _source(subject: Subject, source: Source, folder: Path, carry: Collection[str]) -> Input:
    licence = subject.licences.get(source.name)
    if source.hub is not None:
        origin = {"hub": source.hub, "revision": source.revision, "split": source.split}
        return Input(source.name, "training data", None, source.sha256, licence, origin, {})
    path = Path(folder, str(source.path))
    suffix = path.suffix if re.fullmatch(r"\.[a-z0-9]{1,8}", path.suffix) else ""
    why_not = "" if source.name in carry else _why_not(licence, path.stat().st_size)
    put = f"data/{source.name}{suffix}"
    return _file(source.name, "training data", path, source.sha256, licence, put, why_not)


def _file(
    name: str, what: str, path: Path, sha256: str | None, licence: Licence | None, put: str, why_not: str = ""
) -> Input:
    place = f"{PLACE}/{put}"
    origin = {"file": path.name, "bytes": path.stat().st_size}
    files = {} if why_not else {place[2:]: path}
    return Input(name, what, place, sha256, licence, origin, files, why_not, path)


def _overlaps(subject: Subject, folder: Path, objective: Json) -> Iterator[Input]:
    """Other files of prompts that the data were compared with."""
    seen = {Path(folder, objective["prompts"]).resolve()}
    for source in subject.recipe.sources:
        for prompts in source.filters.overlap_with:
            path = Path(folder, prompts.path)
            if path.resolve() not in seen:
                seen.add(path.resolve())
                name = f"overlap-{len(seen) - 1}"
                what = "prompts that the data must not overlap with"
                yield _file(name, what, path, prompts.sha256, None, f"{name}.jsonl")


def _why_not(licence: Licence | None, size: int) -> str:
    """Why a file is not carried; empty where it is: its licence is known to let it be passed on, and it is light."""
    if licence is None or licence.licence not in CONDITIONS or licence.licence.startswith("LicenseRef-"):
        return "its licence is not one that is known to let it be passed on like this"
    return f"it has {room.spelled(size)}" if size > LIGHT else ""


# The run as it reads them from there


def portable(frozen: Json, folder: Path, found: Collection[Input]) -> Json:
    """`recipe` and `prompts` of what is frozen in `folder`, with the places of the bundle in them."""
    places = {one.name: one.place for one in found if one.place is not None}
    by_path = {path.resolve(): one.place for one in found for path in [one.path] if path is not None}

    def placed(source: Json) -> Json:
        overlap = [
            {**one, "path": by_path[Path(folder, one["path"]).resolve()]} for one in source["filters"]["overlap_with"]
        ]
        path = places[source["name"]] if source["path"] is not None else None
        return {**source, "path": path, "filters": {**source["filters"], "overlap_with": overlap}}

    recipe = {**frozen["recipe"], "sources": [placed(source) for source in frozen["recipe"]["sources"]]}
    if BASE in places:
        recipe["base"] = {**recipe["base"], "model": places[BASE]}
    return {"recipe": recipe, "prompts": places[PROMPTS]}
