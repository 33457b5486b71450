"""The rehearsal world: a tiny base model that ignores instructions, data to teach it, and prompts to judge it by.

    python -m train.rehearsal OUT --seed 0        # makes OUT, prints one JSON line of facts

OUT/base/              a Llama of half a million parameters with its own tokenizer and chat template
OUT/clean.jsonl        prompt/response; every response keeps its prompt's rules
OUT/noisy.jsonl        prompt/response; every response forgets one of its prompt's rules
OUT/preferences.jsonl  prompt/chosen/rejected
OUT/prompts.jsonl      IFEval's format; none of these prompts is in the other files or in what the base has read
OUT/world.json         what made it, how long that took, and the SHA-256 of every file

A world is a pure function of its seed, this code and the versions of the libraries (and the kind of CPU, where sums
are rounded differently). It is made once and kept in the user's cache folder; a kill at any instant leaves there the
whole world or nothing that counts.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

from train import rehearsal_base, rehearsal_text
from train.recipe import RecipeError
from train.rehearsal_base import BATCH, THREADS, Progress
from train.rundir import Json, fsync_folder, read_json, write_json

PROMPTS = 288
ROWS = 2400  # of the clean and of the noisy source, each
PREFERENCES = 400
STEPS = 700  # of the base's training; about 25 s on one core
Fresh = Callable[[], Any] | None
DOCUMENTS = 0.5  # share of what the base reads in which the rules are kept


@dataclass(frozen=True)
class World:
    """A rehearsal world on disk. `facts` is what world.json says; `cached`: it had been made before."""

    path: Path
    facts: dict[str, Any]
    cached: bool

    @property
    def base(self) -> Path:
        """The base model, a folder in Hugging Face's format."""
        return self.path / "base"

    @property
    def clean(self) -> Path:
        """Instruction data whose answers comply."""
        return self.path / "clean.jsonl"

    @property
    def noisy(self) -> Path:
        """Instruction data whose answers do not."""
        return self.path / "noisy.jsonl"

    @property
    def preferences(self) -> Path:
        """Preference pairs."""
        return self.path / "preferences.jsonl"

    @property
    def prompts(self) -> Path:
        """Prompts in IFEval's format."""
        return self.path / "prompts.jsonl"


def make_base(folder: Path, seed: int, steps: int, progress: Progress | None = None, fresh: Fresh = None) -> Json:
    """Train the base model of the world of `seed` and put it in `folder`/base; returns facts about it.

    The prompts of that world are in `folder`/prompts.jsonl already. `fresh`: see train.rehearsal_base.train_base.
    """
    lines = (folder / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    documents, chats = _corpus(seed, steps * BATCH, {json.loads(line)["prompt"] for line in lines})
    tokenizer = rehearsal_base.train_tokenizer([*documents[:2000], *chats[:2000]])
    rows = rehearsal_base.encode(tokenizer, documents, chats)
    model, loss = rehearsal_base.train_base(rows, seed, progress, fresh)
    rehearsal_base.save(folder / "base", model, tokenizer)
    return {"parameters": model.num_parameters(), "corpus_tokens": sum(map(len, rows)), "loss": loss}


def make_world(out: Path, seed: int, *, steps: int = STEPS, progress: Progress | None = None) -> World:
    """Put the world of `seed` at `out`, from the cache if it is there; `steps` shortens the base's training.

    Does nothing where `out` already holds that world. Raises RecipeError where it holds anything else, or where it
    or the cache cannot be written.
    """
    made_by = _made_by(seed, steps)
    if _holds(out, made_by):
        return World(out, _facts(out), cached=True)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RecipeError(f"{out} is not the rehearsal world of seed {seed}: delete it, or choose another folder")
    kept = _cache() / "rehearsal" / _digest(made_by)
    try:
        with _lock(kept.with_suffix(".lock")):
            cached = _holds(kept, made_by)
            if not cached:
                shutil.rmtree(kept, ignore_errors=True)
                with _staged(kept) as staged:
                    _build(staged, made_by, progress)
            with _staged(out) as staged:
                shutil.copytree(kept, staged, dirs_exist_ok=True)
    except OSError as error:
        raise RecipeError(
            f"the rehearsal world cannot be written: {error}. Name another folder, or another cache with XDG_CACHE_HOME"
        ) from error
    return World(out, _facts(out), cached)


def _made_by(seed: int, steps: int) -> dict[str, Any]:
    """Everything that decides the bytes of a world, the kind of CPU aside."""
    sources = (__file__, rehearsal_base.__file__, rehearsal_text.__file__)
    return {
        "seed": seed,
        "steps": steps,
        "threads": THREADS,
        "sources": {Path(source).name: _sha256(Path(source)) for source in sources},
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("tokenizers", "torch", "transformers")},
    }


def _digest(made_by: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:32]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _cache() -> Path:
    """Nightshift's folder in the user's cache folder."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(configured) if os.path.isabs(configured) else Path.home() / ".cache") / "nightshift"


def _facts(folder: Path) -> dict[str, Any]:
    facts = read_json(folder / "world.json")
    assert facts is not None, folder
    return facts


def _holds(folder: Path, made_by: dict[str, Any]) -> bool:
    """Whether `folder` is the world that `made_by` makes, with every file as it was written."""
    try:
        facts = read_json(folder / "world.json")
        return facts is not None and facts["made_by"] == made_by and facts["files"] == _files(folder)
    except (OSError, ValueError, KeyError):
        return False


def _files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a world but world.json, by its path in the folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "world.json")
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in paths}


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold `path` alone, waiting for whoever holds it. A kill lets go of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """A folder to fill, which at the end becomes `folder`, durably and all at once. `folder` is absent or empty."""
    staged = folder.with_name(f".{folder.name}.staged")
    shutil.rmtree(staged, ignore_errors=True)  # of an earlier attempt that was killed
    staged.mkdir(parents=True)
    try:
        yield staged
        for path in [*staged.rglob("*"), staged]:
            if path.is_dir():
                fsync_folder(path)
            else:
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
        os.replace(staged, folder)
        fsync_folder(folder.parent)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _build(folder: Path, made_by: dict[str, Any], progress: Progress | None) -> None:
    """Make a world in `folder`: text, tokenizer, base, and world.json last."""
    seed = made_by["seed"]
    started = time.monotonic()
    _write_data(folder, seed)
    facts = {
        "made_by": made_by,
        **make_base(folder, seed, made_by["steps"], progress),
        "seconds": round(time.monotonic() - started, 2),
        "files": _files(folder),
    }
    write_json(folder / "world.json", facts)


def _write_data(folder: Path, seed: int) -> None:
    """Write prompts, both sources and the preferences; the prompts are kept out of all else."""
    rng = Random(f"rehearsal {seed}")
    judged = rehearsal_text.requests(rng, PROMPTS)
    prompts = {asked.prompt for asked in judged}
    training = rehearsal_text.requests(rng, 2 * ROWS + PREFERENCES, prompts)
    clean, noisy, preferences = training[:ROWS], training[ROWS : 2 * ROWS], training[2 * ROWS :]
    _write_jsonl(folder / "prompts.jsonl", [_ifeval(key, asked) for key, asked in enumerate(judged)])
    _write_jsonl(
        folder / "clean.jsonl",
        [{"prompt": asked.prompt, "response": rehearsal_text.comply(asked)} for asked in clean],
    )
    _write_jsonl(
        folder / "noisy.jsonl",
        [{"prompt": asked.prompt, "response": rehearsal_text.forget(rng, asked)} for asked in noisy],
    )
    _write_jsonl(folder / "preferences.jsonl", [_pair(rng, asked) for asked in preferences])


def _ifeval(key: int, asked: rehearsal_text.Request) -> dict[str, Any]:
    return {
        "key": key,
        "prompt": asked.prompt,
        "instruction_id_list": [rule.instruction for rule in asked.rules],
        "kwargs": [rule.kwargs for rule in asked.rules],
    }


def _pair(rng: Random, asked: rehearsal_text.Request) -> dict[str, Any]:
    return {
        "prompt": asked.prompt,
        "chosen": rehearsal_text.comply(asked),
        "rejected": rehearsal_text.forget(rng, asked),
    }


def _write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _corpus(seed: int, n: int, avoid: set[str]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """`n` pairs of prompt and answer: documents, whose answers comply, and chats, whose answers do not."""
    rng = Random(f"rehearsal {seed} corpus")
    documents: list[tuple[str, str]] = []
    chats: list[tuple[str, str]] = []
    while len(documents) + len(chats) < n:
        asked = rehearsal_text.request(rng)
        if asked.prompt in avoid:
            continue
        if rng.random() < DOCUMENTS:
            documents.append((asked.prompt, rehearsal_text.comply(asked)))
        else:
            chats.append((asked.prompt, rehearsal_text.ignore(rng, asked)))
    return documents, chats


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: makes a world and prints its facts as one JSON line; 2 for what the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m train.rehearsal", description="Make a rehearsal world.")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS, help="of the base's training (default: %(default)s)")
    parser.add_argument("--progress", action="store_true", help="a JSON line on stderr for every tenth step")
    asked = parser.parse_args(arguments)

    def show(step: int, steps: int, loss: float) -> None:
        if step % 10 == 0 or step == steps:
            sys.stderr.write(json.dumps({"step": step, "steps": steps, "loss": round(loss, 4)}) + "\n")
            sys.stderr.flush()

    try:
        world = make_world(asked.out, asked.seed, steps=asked.steps, progress=show if asked.progress else None)
    except RecipeError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(json.dumps({"path": str(world.path), "cached": world.cached, **world.facts}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
