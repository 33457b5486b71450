"""SHA-256 of a model's files, read once and then out of a cache. Imports no torch."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from train.rundir import write_atomic

_DIGESTED = (
    *("config.json", "generation_config.json", "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "vocab.json", "merges.txt"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "chat_template.json"),
)


def model_digest(folder: Path, weights: Iterable[Path]) -> str:
    """SHA-256 over the names and digests of the files that decide what the model says."""
    lines = [f"{name} {digest}\n" for name, digest in file_digests(folder, weights).items()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def file_digests(folder: Path, weights: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of each of the files that decide what the model says, by name."""
    files = sorted({*weights, *(folder / name for name in _DIGESTED if (folder / name).exists())})
    return {file.name: _file_digest(file) for file in files}


def _file_digest(file: Path) -> str:
    """SHA-256 of a file; of an unchanged file, out of the cache (16 GB take half a minute)."""
    real, status = file.resolve(), file.stat()
    stamp = f"{real}|{status.st_size}|{status.st_mtime_ns}|{status.st_ctime_ns}"
    cached = cache_folder() / "digests" / hashlib.sha256(stamp.encode()).hexdigest()
    with suppress(OSError, UnicodeDecodeError):
        if re.fullmatch(r"[0-9a-f]{64}", known := cached.read_text(encoding="ascii")):
            return known
    with open(real, "rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    with suppress(OSError):  # a cache that cannot be written costs time and nothing else
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(cached, digest)
    return digest


def cache_folder() -> Path:
    """Nightshift's folder under the user's cache folder; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nightshift"
