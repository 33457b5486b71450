"""One archive of many files whose bytes depend on nothing but names and contents: sorted, without times and owners."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

Content = bytes | Path  # what a file holds, or the file that holds it
SUMS = "SHA256SUMS"
RUNNABLE = ".sh"
THEN = 315_532_800  # 1980-01-01, the first time that every archive format can tell
LEVEL = 6


def write(path: Path, top: str, files: Mapping[str, Content]) -> None:
    """Write `files`, by their names within the folder `top`, and SHA256SUMS of them all, as the .tar.gz at `path`.

    It is there once it is whole.
    """
    sums = "".join(f"{_digest(files[name])}  {name}\n" for name in sorted(files)).encode()
    staged = path.with_name(f".{path.name}.tmp")
    try:
        with open(staged, "wb") as raw:
            with (
                gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=LEVEL, mtime=0) as packed,
                tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
            ):
                for name, content in sorted({**files, SUMS: sums}.items()):
                    _add(archive, f"{top}/{name}", content)
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(staged, path)
    finally:
        staged.unlink(missing_ok=True)


def _add(archive: tarfile.TarFile, name: str, content: Content) -> None:
    entry = tarfile.TarInfo(name)
    entry.mtime, entry.mode = THEN, 0o755 if name.endswith(RUNNABLE) else 0o644
    with _opened(content) as file:
        entry.size = file.seek(0, os.SEEK_END)
        file.seek(0)
        archive.addfile(entry, file)


def _digest(content: Content) -> str:
    with _opened(content) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _opened(content: Content) -> Iterator[io.BytesIO | io.BufferedReader]:
    if isinstance(content, bytes):
        yield io.BytesIO(content)
    else:
        with open(content, "rb") as file:
            yield file
