"""What a run is made with: Python, the machine, and every installed package that it uses, with a digest of each.

Nothing here asks a network. What an installer writes down of a package is its version and, in RECORD, the digest of
every file; the digest of the wheel itself is known only where the package came from a file or an address, and not from
an index. So a package is named by a digest of what RECORD says of its own files, which is the same for one wheel
wherever and with whatever it is installed. Files are not read again: what somebody changed in them afterwards goes
unnoticed. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from train.recipe import Frozen, Sha256
from train.rundir import Json

# Those whose versions decide the weights and the scores
LIBRARIES = (
    "accelerate",
    "bitsandbytes",
    "datasets",
    "lm_eval",
    "nightshift",
    "peft",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
    "trl",
)
# What train and objectives import; what these need in turn is used as well
ROOTS = (
    *("accelerate", "bitsandbytes", "datasets", "huggingface-hub", "jinja2", "langdetect", "lm-eval[ifeval]", "nltk"),
    *("numpy", "packaging", "peft", "pyarrow", "pydantic", "safetensors", "tokenizers", "torch", "transformers", "trl"),
)
OURS = "nightshift"
ROOMS = ("train", "objectives")  # of our own code, what a run uses
_INSTALLED = re.compile(r"\.dist-info/|\.pyc,")


class Package(Frozen):
    """One installed package. `sha256` is over its files as RECORD has them (of Nightshift: over the code itself), and
    None where the installer kept none; `wheel_sha256` is the archive's own, where it is known."""

    version: str
    sha256: Sha256 | None = None
    wheel_sha256: Sha256 | None = None


def versions(names: Iterable[str] = ("python", *LIBRARIES)) -> dict[str, str]:
    """The version of Python and of each of the libraries that is installed."""
    found = {name: version(name) for name in names}
    return {name: number for name, number in found.items() if number is not None}


def version(name: str) -> str | None:
    """The installed version of a library, or of Python; None where there is none."""
    try:
        return platform.python_version() if name == "python" else metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@cache
def packages() -> Mapping[str, Package]:
    """Every installed package that a run uses, and what these need, by name."""
    found = {name: package(name) for name in sorted({OURS, *_used()})}
    return {name: one for name, one in found.items() if one is not None}


@cache
def package(name: str) -> Package | None:
    """An installed package, or None; asked once in a process."""
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    sha256 = _our_code() if canonicalize_name(name) == OURS else _content(found.read_text("RECORD"))
    return Package(version=found.version, sha256=sha256, wheel_sha256=_wheel(found.read_text("direct_url.json")))


def python() -> Json:
    """The interpreter."""
    return {"version": platform.python_version(), "implementation": platform.python_implementation()}


def machine() -> Json:
    """The machine, as far as it can decide the last bits of a weight on the CPU."""
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "libc": " ".join(platform.libc_ver()).strip() or None,
        "processor": _processor(),
    }


def _used() -> set[str]:
    """The names of the roots and of everything that they require here, as far as it is installed."""
    left, seen = [Requirement(root) for root in ROOTS], set()
    while left:
        wanted = left.pop()
        asked = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if asked not in seen:
            seen.add(asked)
            left.extend(_required(*asked))
    return {name for name, _ in seen}


def _required(name: str, extras: frozenset[str]) -> Iterator[Requirement]:
    try:
        lines = metadata.distribution(name).requires or []
    except metadata.PackageNotFoundError:
        return
    for requirement in map(Requirement, lines):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def _content(record: str | None) -> str | None:
    """The digest of the package's own files. Left out is what installing it adds or changes, on each machine otherwise:
    scripts beside Python, compiled files, and the folder of metadata."""
    kept = sorted(
        line.rpartition(",")[0]  # path and digest; the size is left out
        for line in (record or "").splitlines()
        if not line.endswith(",,") and not line.startswith(("..", "/")) and not re.search(_INSTALLED, line)
    )
    return hashlib.sha256("\n".join(kept).encode()).hexdigest() if kept else None


def _wheel(direct_url: str | None) -> str | None:
    try:
        told = json.loads(direct_url or "{}")["archive_info"]["hashes"]["sha256"]
    except (ValueError, KeyError, TypeError):
        return None
    return str(told)


@cache
def _our_code() -> str:
    """Over the code of the rooms that a run uses, whether it was installed or is worked on where it lies."""
    root = Path(__file__).resolve().parents[1]
    files = sorted(file for room in ROOMS for file in (root / room).rglob("*.py"))
    lines = [f"{file.relative_to(root).as_posix()} {hashlib.sha256(file.read_bytes()).hexdigest()}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _processor() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
