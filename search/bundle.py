"""Everything that somebody else needs to look at a final run and to make it again, as one archive.

The same study gives the same bytes. In the archive, final_run.py names what it reads by places in the archive, so that
its recipe, lock and decisions have digests of their own; the weights that it gives are the same.
"""

from __future__ import annotations

import json
import re
import shlex
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from search import bundle_archive, bundle_inputs, bundle_texts, bundle_wheel, export, export_card, export_subject
from search import report as reporting
from search.bundle_archive import Content
from search.bundle_inputs import Input
from search.errors import SearchError
from search.export import Say
from search.export_subject import Subject
from search.freeze_file import FILE, edited, render
from search.score_model import ADAPTER_CONFIG, FINAL
from search.scratch import scratch
from train import decisions, environment, lock, room
from train.data.sources import inspect_sources
from train.licences import BASE
from train.recipe import Recipe, digest_of
from train.rundir import Json

REPRODUCE = Path(__file__).with_name("templates") / "reproduce.sh"
RECORDS = ("result.json", "samples.jsonl", "events.jsonl", decisions.FILE)
SPACE = 2**24  # bytes beside what is carried: report, wheel, records


@dataclass(frozen=True)
class Bundled:
    """The archive, what of the run's inputs is not in it, a line each, and the report in it as it was written."""

    path: Path
    not_in_it: tuple[str, ...]
    report: reporting.Written


def bundle(
    folder: Path, out: Path | None, *, merged: bool, carry: Collection[str] = (), say: Say = lambda _: None
) -> Bundled:
    """Write the bundle of the study in `folder` as `out`, by default NAME-bundle.tar.gz in that folder.

    `merged` puts the merged model in; `carry` names local inputs that are put in whatever their licence and size; `say`
    is told what takes its time. Raises SearchError where the study has no finished final run, where this Nightshift is
    not the one that it was frozen with, or where `out` is there or cannot be made; RecipeError where an input is not
    what was frozen, or the disk is too small.
    """
    folder = folder.resolve()
    target = out or folder / f"{folder.name}-bundle.tar.gz"
    if out is not None:
        _check(out, f"{folder.name}-bundle.tar.gz")
    subject = export_subject.find(str(folder / FINAL) if _is_trained(folder) else str(folder))
    frozen, locked = _frozen(subject, folder)
    inspect_sources([source for source in subject.recipe.sources if source.hub is None])
    found = bundle_inputs.inputs(subject, folder, frozen["objective"], carry)
    sizes = sum(path.stat().st_size for one in found for path in one.files.values())
    weights = room.merged_bytes(subject.model.facts) if merged else 0
    room.check(target.parent, sizes + 2 * weights + SPACE)
    with scratch(folder, ".nightshift-bundle-") as place:
        if merged:
            say(f"merging the adapter into {subject.recipe.base.model}")
        report = _report(folder, place / "report", found, subject.recipe)
        files = {**_files(subject, folder, frozen, locked, found, place, merged), **_below(place / "report", "report")}
        say(f"packing {len(files)} files, {room.spelled(sizes + weights)} of them inputs and weights")
        bundle_archive.write(target, f"{folder.name}-bundle", files)
    return Bundled(target, tuple(f"{one.name}: {one.access}" for one in found if one.why_not), report)


def _check(out: Path, name: str) -> None:
    """Raise SearchError unless a file can be made at `out`, whose folder is made."""
    if out.is_dir():
        as_file = shlex.join(["--out", str(out / name)])
        raise SearchError(f"{out} is a folder, and --out names the archive's file: {as_file}")
    if out.exists():
        remove = shlex.join(["rm", str(out)])
        raise SearchError(f"{out} is there already: give another name with --out, or remove it: {remove}")
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.absolute().parent):
            pass
    except OSError as error:
        raise SearchError(f"{out} cannot be made ({error.strerror}); give another place with --out") from None


def _is_trained(folder: Path) -> bool:
    return (folder / FINAL / "adapter" / ADAPTER_CONFIG).exists()


def _frozen(subject: Subject, folder: Path) -> tuple[Json, Json]:
    """What was frozen and its lock, if the run that was made of it is whole."""
    if not subject.run.result.exists():
        raise SearchError(export_subject.not_yet(folder))
    if subject.frozen is None or edited(folder / FILE):
        raise SearchError(
            f"{folder / FILE} was edited since it was frozen, or is another version's: put back the file that the run "
            "was made with, and make the bundle with the Nightshift that froze it"
        )
    frozen = subject.frozen
    locked = lock.read(frozen, folder / FILE)
    if frozen["recipe_sha256"] != subject.recipe.digest:
        raise SearchError(
            f"{folder / FILE} was frozen anew after the run in {subject.run.path}, whose recipe is another one: put "
            "back the file that the run was made with, or make the run of this one"
        )
    ours = environment.packages()[environment.OURS]
    if ours.sha256 != locked["packages"][environment.OURS]["sha256"]:
        raise SearchError(
            f"the Nightshift that is installed here ({ours.version}) has other code than the one that froze the run, "
            "so that its wheel would not make it again: make the bundle with that one"
        )
    if not all("all" in scores for scores in (subject.record.scores, subject.record.base_scores)):
        raise SearchError(
            f"{subject.run.result} lacks a score of all prompts: put the file back from a copy, or make the run again"
        )
    if missing := [name for name in RECORDS if not (subject.run.path / name).exists()]:
        raise SearchError(f"{subject.run.path / missing[0]} is missing, without which the run is not told: put it back")
    return frozen, locked


def _files(
    subject: Subject, folder: Path, frozen: Json, locked: Json, found: list[Input], place: Path, merged: bool
) -> dict[str, Content]:
    name, wheel = bundle_wheel.wheel()
    wanted = [(one.place, one.access) for one in found if one.place is not None]
    return {
        "README.md": bundle_texts.readme(folder.name, locked, subject.record, found, merged).encode(),
        "reproduce.sh": REPRODUCE,
        f"wheel/{name}": wheel,
        "requirements.txt": "".join(_requirements(locked)).encode(),
        "python-version.txt": f"{locked['python']['version']}\n".encode(),
        "inputs/manifest.json": _json([one.manifest for one in found]),
        "inputs/wanted.tsv": "".join(f"{where}\t{' '.join(said.split())}\n" for where, said in wanted).encode(),
        **{place: path for one in found for place, path in one.files.items()},
        **_portable_run(subject, folder, frozen, locked, found),
        **{f"record/{record}": subject.run.path / record for record in RECORDS if record != decisions.FILE},
        **_adapter(subject, found, place / "adapter"),
        **(_merged(subject, place / "merged") if merged else {}),
    }


def _requirements(locked: Json) -> Iterator[str]:
    """A line for each package of the lock but Nightshift. Raises SearchError for what pip would take for more."""
    for name, package in locked["packages"].items():
        line = f"{name}=={package['version']}"
        try:
            Requirement(line)
        except InvalidRequirement:
            raise SearchError(f"the lock names a package that cannot be one: {line!r}; freeze again") from None
        if name != environment.OURS:
            yield f"{line}\n"


def _portable_run(subject: Subject, folder: Path, frozen: Json, locked: Json, found: list[Input]) -> dict[str, Content]:
    """final_run.py, its lock and its decisions, with the places of the bundle in them."""
    placed = bundle_inputs.portable(frozen, folder, found)
    recipe = Recipe.model_validate_json(json.dumps(placed["recipe"]))
    inputs = locked["inputs"]
    data = {s["name"]: {**inputs["data"][s["name"]], "path": s["path"]} for s in placed["recipe"]["sources"]}
    relocked = lock.sealed(
        {
            **{key: value for key, value in locked.items() if key != "sha256"},
            "recipe_sha256": recipe.digest,
            "inputs": {
                "base": {**inputs["base"], "model": recipe.base.model},
                "data": data,
                "prompts": {**inputs["prompts"], "path": placed["prompts"]},
            },
        }
    )
    refrozen = {
        **{key: value for key, value in frozen.items() if key != "sha256"},
        "recipe": recipe.model_dump(mode="json"),
        "recipe_sha256": recipe.digest,
        "objective": {**frozen["objective"], "prompts": placed["prompts"]},
        "lock_sha256": relocked["sha256"],
    }
    taken = [
        {**line, "recipe_sha256": recipe.digest} if "recipe_sha256" in line else line
        for line in decisions.lines(subject.run.path / decisions.FILE)
    ]
    return {
        FILE: render({**refrozen, "sha256": digest_of(refrozen)}).encode(),
        lock.FILE: _json(relocked),
        f"record/{decisions.FILE}": "".join(json.dumps(line) + "\n" for line in taken).encode(),
    }


def _adapter(subject: Subject, found: list[Input], folder: Path) -> Mapping[str, Content]:
    """The adapter with its card; a base model that lies in a folder is named by its place in the bundle."""
    folder.mkdir()
    base = next(one.place for one in found if one.name == BASE)
    export.write_adapter(subject, folder, base)
    (folder / export.CARD).write_text(export_card.card(subject, "adapter"), encoding="utf-8")
    return _below(folder, "adapter")


def _merged(subject: Subject, folder: Path) -> Mapping[str, Content]:
    export.merge(subject, folder)
    (folder / export.CARD).write_text(export_card.card(subject, "merged"), encoding="utf-8")
    return _below(folder, "merged")


def _report(folder: Path, place: Path, found: Collection[Input], recipe: Recipe) -> reporting.Written:
    """The report, made anew: it has the answers and the run that are there now, and no path of this machine."""
    names = {BASE: recipe.base.model, **{one.name: str(one.path) for one in found if one.path is not None}}
    places = {names[one.name]: one.place for one in found if one.place is not None}
    places |= {
        str(folder / FINAL / decisions.FILE): f"record/{decisions.FILE}",
        str(folder): ".",
        str(Path.home()): "~",
    }
    place.mkdir()
    return reporting.write(folder, place, lambda text: _portable(text, places))


def _portable(text: str, places: Mapping[str, str]) -> str:
    """A text with paths replaced by places; a long one before the folder that it is in, and one in a quoted command."""
    for path in sorted(places, key=len, reverse=True):
        quoted = path.replace("'", shlex.quote("'")[1:-1])
        either = "|".join(re.escape(each) for each in (path, quoted))
        place = places[path].replace("\\", r"\\")
        text = re.sub(rf"(?<!\w)(?:{either})(?![\w-])", place, text)
    return text


def _below(folder: Path, name: str) -> dict[str, Content]:
    return {f"{name}/{path.relative_to(folder).as_posix()}": path for path in folder.rglob("*") if path.is_file()}


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()
