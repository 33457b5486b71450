"""The lock beside a final_run.py: every package that the run uses, the machine, and the inputs, each with its digest.

The frozen file names its lock by a digest, so that neither can be exchanged without the other. A lock holds

    packages      of each package: version, digest of its files, digest of its wheel where that is known
    python        version and implementation
    machine       system, architecture, C library, processor; what it had as a GPU
    inputs        base model, data and prompts: revisions, digests of their files, rows read and left out, licences
    chat_template the template's text, and who gave it

The packages have to be the same; on another machine a run goes on, and says so. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from packaging.utils import canonicalize_name
from pydantic import TypeAdapter, ValidationError

from train import environment
from train.card import Card
from train.environment import Package
from train.recipe import RecipeError, canonical, digest_of
from train.rundir import Json

FILE = "final_run.lock.json"
OPEN, CLOSE = 'FROZEN = json.loads(r"""', '""")'  # around the one literal of a final_run.py

_PACKAGES = TypeAdapter(dict[str, Package])
_OTHER_VERSIONS = "--allow-other-versions"


def sealed(lock: Json) -> Json:
    """The lock with the digest of all else in it."""
    return {**lock, "sha256": _digest(lock)}


def code_digest(text: str) -> str:
    """SHA-256 of the text of a final_run.py without its literal."""
    head, _, rest = text.partition(OPEN)
    return hashlib.sha256(f"{head}{OPEN}{CLOSE}{rest.partition(CLOSE)[2]}".encode()).hexdigest()


def check_file(frozen: Json, file: Path) -> None:
    """Raise RecipeError where `file`, which holds `frozen`, is not as a freeze wrote it. Meant for those who did not
    know or forgot: whoever changes the code can change this as well."""
    away = shlex.join(["mv", str(file), str(free_name(file.with_name(f"{file.stem}.edited{file.suffix}")))])
    confirm = f"confirm it with --edited, or move it away and freeze again: {away}"
    if digest_of(frozen) != frozen["sha256"]:
        raise RecipeError(f"what {file} holds was edited: {confirm}")
    if code_digest(file.read_text(encoding="utf-8")) != frozen["code_sha256"]:
        raise RecipeError(f"the code of {file} was edited: {confirm}")


def free_name(path: Path) -> Path:
    """`path`, or the first name like it that nothing has."""
    found, number = path, 1
    while found.exists():
        number += 1
        found = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return found


def check(frozen: Json, file: Path, edited: bool, other_versions: bool, card: Card | None = None) -> list[str]:
    """Compare what is installed with what was frozen as `file`; returns, a line each, the differences that are allowed.
    `card` is the GPU that the run is made on.

    Raises RecipeError where the lock is missing, edited or another file's, and where Python or a package differs, with
    all of the differences. `edited` allows a lock that was edited, `other_versions` other packages, or no lock.
    """
    path = file.with_name(FILE)
    lock = _read(frozen, file, path, edited=edited)
    if lock is None and frozen.get("lock_sha256") is not None and not other_versions:
        raise RecipeError(
            f"{path} is not there, the lock of {file}: put it back beside it, or freeze again, which writes both; or "
            f"go on and compare the main libraries alone: {_OTHER_VERSIONS}"
        )
    differ = list(_packages_differ(frozen.get("versions", {}), _packages(lock, path)))
    if differ and not other_versions:
        lines = "\n".join(f"  {line}" for line in differ)
        raise RecipeError(
            "this environment is not the one that was frozen; install what was frozen, or go on with what is here: "
            f"{_OTHER_VERSIONS}\n{lines}"
        )
    return differ + list(_machine_differs((lock or {}).get("machine"), card.name if card else None))


def read(frozen: Json, file: Path) -> Json:
    """The lock of `file`. Raises RecipeError where it is missing, damaged, edited, or of another freeze."""
    path = file.with_name(FILE)
    lock = _read(frozen, file, path, edited=False)
    if lock is None:
        raise RecipeError(f"{path} is not there, the lock of {file}: put it back beside it, or freeze again")
    return lock


def was_edited(path: Path) -> bool:
    """Whether there is a file at `path` that is not as a freeze wrote it."""
    try:
        held = json.loads(path.read_bytes())
        return bool(held["sha256"] != _digest(held))
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return True


def _read(frozen: Json, file: Path, path: Path, *, edited: bool) -> Json | None:
    """The lock, or None where there is none."""
    try:
        lock = json.loads(path.read_bytes())
        assert isinstance(lock, dict)
    except FileNotFoundError:
        return None
    except (ValueError, AssertionError, RecursionError):
        raise RecipeError(f"{path} is damaged: put the frozen one back, or freeze again") from None
    if edited:
        return lock
    if lock.get("sha256") != _digest(lock):
        raise RecipeError(f"{path} was edited: put the frozen one back, freeze again, or confirm it with --edited")
    if lock["sha256"] != frozen.get("lock_sha256"):
        raise RecipeError(
            f"{path} belongs to another freeze than {file}: put the one back that was written with it, freeze again, "
            "or confirm this one with --edited"
        )
    return lock


def _digest(lock: Json) -> str:
    content = {key: value for key, value in lock.items() if key != "sha256"}
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def _packages(lock: Json | None, path: Path) -> dict[str, Package]:
    try:
        return _PACKAGES.validate_python((lock or {}).get("packages") or {}, strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        wrong = f"{path}: packages.{place}: {first['msg']}"
        raise RecipeError(f"{wrong}; put the frozen one back, or freeze again") from None


def _packages_differ(versions: Mapping[str, str], packages: Mapping[str, Package]) -> Iterator[str]:
    """What is not installed as it was frozen, in the order of names, each package once."""
    named = {canonicalize_name(name): (name, Package(version=version)) for name, version in versions.items()}
    for key, wanted in packages.items():
        name, by_file = named.get(canonicalize_name(key), (key, wanted))
        if by_file.version == wanted.version:
            named[canonicalize_name(key)] = name, wanted
    for key in sorted(named):
        name, wanted = named[key]
        if said := _differs(name, wanted):
            yield f"{name}: {said}"


def _differs(name: str, wanted: Package) -> str:
    found = Package(version=environment.version(name) or "") if name == "python" else environment.package(name)
    if found is None:
        return f"not installed here, {wanted.version} was frozen"
    if found.version != wanted.version:
        return f"{found.version} here, {wanted.version} was frozen"
    if None not in (found.sha256, wanted.sha256) and found.sha256 != wanted.sha256:
        return f"{found.version} as it was frozen, with other files in it"
    return ""


def _machine_differs(frozen: object, card: str | None) -> Iterator[str]:
    held = frozen if isinstance(frozen, dict) else {}
    gpu = held.get("gpu")
    then = {**held, "gpu": gpu.get("name") if isinstance(gpu, dict) else None}
    now = {**environment.machine(), "gpu": card}
    for name, value in now.items():
        if name in held and then[name] != value:
            yield f"another machine, whose weights may differ in their last bits: {name} {value}, not {then[name]}"
