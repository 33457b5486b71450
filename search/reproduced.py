"""Whether a final run that was made again is the one that was handed in: the last step of a bundle's reproduce.sh.

    python -m search.reproduced FOLDER     FOLDER is an unpacked bundle whose final_run.py has been run

On the CPU of the same machine, with the same packages, the adapter has to be the same, bit for bit. Elsewhere the last
bits of sums differ, and training makes another model of them: then the scores have to agree. How far two honest runs
differ is told by the prompts that one alone follows. If nothing but chance decides which of the two that is, the
difference of their scores has the standard error sqrt(gained + lost) / n; TOLERANCE of these are allowed, which three
honest runs of a thousand exceed. Imports no torch and nothing that a final run does not need.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

from objectives.compare import Comparison, compare
from objectives.score import Measure, ObjectiveError, Score, Verdict
from train.card import NoCard, card
from train.environment import machine
from train.lock import FILE as LOCK
from train.rundir import Damaged, Json, read_json, taken

TOLERANCE = 3.0  # standard errors of the paired difference
RECORD = "record"
WEIGHTS = "adapter/adapter_model.safetensors"
PARTS = {"search": "half that the search saw", "sealed": "half that it never saw", "all": "all prompts"}


@dataclass(frozen=True)
class Judgement:
    """Whether the run is reproduced, and why, a line each."""

    good: bool
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Made:
    """What a final run's result tells: the versions that it was made with, and the verdicts, by part of the prompts."""

    versions: Json
    verdicts: dict[str, tuple[Verdict, ...]]

    @classmethod
    def of(cls, result: Json) -> Made:
        """Of a result as it was written; raises what a missing or other value raises."""
        scores = {part: Score.model_validate_json(json.dumps(result["scores"][part])) for part in PARTS}
        return cls(dict(result["versions"]), {part: score.verdicts for part, score in scores.items()})


def standard_error(gained: int, lost: int, n: int) -> float:
    """Of the difference of two scores on the same `n` prompts, if the prompts that one alone follows fall by chance."""
    return math.sqrt(gained + lost) / n


def widest(before: Measure) -> float:
    """The tolerance where the two runs' answers have nothing to do with each other: never more than about this."""
    return TOLERANCE * math.sqrt(2) * before.standard_error


def judged(folder: Path) -> Judgement:
    """The verdict on the run in the unpacked bundle `folder`. Raises ObjectiveError where something is missing."""
    before, after = (_made(folder / place) for place in (f"{RECORD}/result.json", "final/result.json"))
    same = _digest(folder / WEIGHTS) == _digest(folder / "final" / WEIGHTS)
    differs = _differs(folder, before, after)
    compared = {part: compare(before.verdicts[part], after.verdicts[part]) for part in PARTS}
    lines = [*_told(compared), *(f"another {line}" for line in differs)]
    if same:
        return Judgement(True, (*lines, "reproduced: the adapter is the same, bit for bit"))
    if not differs and not _machine(folder).get("gpu"):
        return Judgement(False, (*lines, "not reproduced: the same machine and packages gave another adapter"))
    whole = compared["all"]
    difference = whole.metrics["prompt_strict"].difference
    tolerance = TOLERANCE * standard_error(len(whole.gained), len(whole.lost), whole.n)
    good = abs(difference) <= tolerance
    said = f"the adapter has other bits, and the score on all prompts differs by {difference:+.4f}"
    said += f" ({tolerance:.4f} is allowed: {TOLERANCE:g} standard errors of the paired difference)"
    return Judgement(good, (*lines, f"{'reproduced' if good else 'not reproduced'}: {said}"))


def _told(compared: dict[str, Comparison]) -> list[str]:
    lines = [f"{'IFEval, prompts followed (strict)':<36}{'handed in':>18}{'made again':>18}  alone followed by either"]
    for part, name in PARTS.items():
        made, paired = compared[part], compared[part].metrics["prompt_strict"]
        row = f"{f'{name} ({made.n})':<36}{paired.a!s:>18}{paired.b!s:>18}"
        lines.append(f"{row}  {len(made.lost)} and {len(made.gained)}")
    return lines


def _differs(folder: Path, before: Made, after: Made) -> list[str]:
    """What of machine and packages is not as it was, a line each."""
    held = _machine(folder)
    now = {**machine(), "gpu": _gpu()} if held.get("gpu") else machine()
    then = {**held, "gpu": held["gpu"].get("name")} if held.get("gpu") else held
    lines = [f"{name}: {value}, not {then.get(name)}" for name, value in now.items() if then.get(name) != value]
    older, newer = before.versions, after.versions
    return lines + [f"{n}: {newer.get(n)}, not {older[n]}" for n in older if newer.get(n) != older[n]]


def _machine(folder: Path) -> Json:
    """The machine of the run that was handed in, as its lock has it."""
    machine: Json = (read_json(folder / LOCK) or {}).get("machine") or {}
    return machine


def _gpu() -> str | None:
    try:
        return card().name
    except NoCard:
        return None


def _made(path: Path) -> Made:
    try:
        if (made := taken(path, Made.of)) is not None:
            return made
    except Damaged:
        pass
    raise ObjectiveError(f"{path} is not there, or is not whole: run ./reproduce.sh again")


def _digest(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ObjectiveError(f"{path} cannot be read ({error.strerror}): run ./reproduce.sh again") from None


def main(arguments: list[str]) -> int:
    """0: reproduced, 1: not, 2: something has to be put right first."""
    try:
        verdict = judged(Path(arguments[0]))
    except ObjectiveError as error:
        sys.stderr.write(f"reproduce: {error}\n")
        return 2
    sys.stdout.write("".join(f"{line}\n" for line in verdict.lines))
    return 0 if verdict.good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
