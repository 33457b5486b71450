"""The Nightshift that is installed here as a wheel, whether it was installed from one or is worked on where it lies.

A wheel is the rooms' files as they are, and the metadata of the installation; no build backend and no network is
needed, and equal code gives equal bytes.
"""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from search.errors import SearchError
from train.environment import OURS

ROOMS = ("objectives", "search", "storage", "train")
SUFFIXES = (".py", ".sh", ".toml")  # of what belongs to a room
BEGINNING = (1980, 1, 1, 0, 0, 0)  # the first time that a zip file can tell
WHEEL = "Wheel-Version: 1.0\nGenerator: nightshift\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def wheel() -> tuple[str, bytes]:
    """The name and the content of the wheel. Raises SearchError where Nightshift is not installed."""
    try:
        held = metadata.distribution(OURS)
    except metadata.PackageNotFoundError:
        raise SearchError(
            "Nightshift is not installed here, but only lies here; install it: pip install -e ."
        ) from None
    info = f"{OURS}-{held.version}.dist-info"
    files = {**_code(), **_metadata(held, info), f"{info}/WHEEL": WHEEL.encode()}
    record = f"{info}/RECORD"
    files[record] = _record(files, record)
    return f"{OURS}-{held.version}-py3-none-any.whl", _zipped(files)


def _code() -> dict[str, bytes]:
    root = Path(__file__).resolve().parents[1]
    found = sorted(path for room in ROOMS for path in (root / room).rglob("*") if path.suffix in SUFFIXES)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def _metadata(held: metadata.Distribution, info: str) -> dict[str, bytes]:
    told = held.read_text("METADATA") or held.read_text("PKG-INFO") or ""
    points, licence = held.read_text("entry_points.txt") or "", held.read_text("licenses/LICENSE")
    files = {"METADATA": told, "entry_points.txt": points, **({"licenses/LICENSE": licence} if licence else {})}
    return {f"{info}/{name}": text.encode() for name, text in files.items()}


def _record(files: Mapping[str, bytes], record: str) -> bytes:
    lines = [f"{name},{_digest(content)},{len(content)}" for name, content in sorted(files.items())]
    return "".join(f"{line}\n" for line in [*lines, f"{record},,"]).encode()


def _digest(content: bytes) -> str:
    return f"sha256={base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b'=').decode()}"


def _zipped(files: Mapping[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name in sorted(files, key=lambda name: (".dist-info/" in name, name)):
            entry = zipfile.ZipInfo(name, BEGINNING)
            entry.external_attr = 0o100644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, files[name], compresslevel=9)
    return made.getvalue()
