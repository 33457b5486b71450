"""What every benchmark prints and writes: one line a figure, with what was to reach and whether it was."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs" / "benchmarks"
LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "optuna", "lm-eval")


@dataclass(frozen=True)
class Figure:
    """One measured figure. `peer` is what was measured beside it in the same run, "-" where there is none."""

    name: str
    measured: str
    peer: str
    to_reach: str
    reached: bool

    @property
    def line(self) -> str:
        """`figure | measured | peer in the same run | to reach | reached or short`."""
        verdict = "reached" if self.reached else "short"
        return " | ".join([self.name, self.measured, self.peer, self.to_reach, verdict])


def publish(name: str, title: str, figures: Sequence[Figure], notes: str = "") -> None:
    """Print the figures and write the same table to docs/benchmarks/NAME.md, with date, machine and versions."""
    for figure in figures:
        print(figure.line)
    reached = sum(figure.reached for figure in figures)
    print(f"{reached} reached, {len(figures) - reached} short")
    versions = ", ".join(f"{library} {version(library)}" for library in LIBRARIES)
    head = "| figure | measured | peer in the same run | to reach | |\n|---|---|---|---|---|\n"
    rows = "".join(f"| {figure.line} |\n" for figure in figures)
    machine = f"{datetime.now(UTC):%Y-%m-%d}, {processor()}, Python {platform.python_version()}, {versions}."
    DOCS.mkdir(parents=True, exist_ok=True)
    (DOCS / f"{name}.md").write_text(f"# {title}\n\nMeasured {machine}\n\n{head}{rows}\n{notes}", encoding="utf-8")


def processor() -> str:
    """The processor's name and its cores, as Linux tells them."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} cores of {names[0]}" if names else platform.processor()
