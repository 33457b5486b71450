"""Signs of life of a running attempt, and what to say when there have been none for too long.

An event is one, and so is an answer that was kept. While the base model is loaded there are neither, perhaps for hours
where it comes from a hub: then, what the process reads from or writes to a disk is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from search.clock import Clock
from train.rundir import Json, RunDir

HANG_S = 1200.0
LOOKED_S = 5.0  # more than this between two looks: it was the service, or the machine, that stood still
LOOKS = 20  # for signs beside events, in one stretch of patience
AWAITED = {"load": "sign of loading", "probe": "probe", "score": "answer"}  # else a step


@dataclass
class Silence:
    """How long one attempt has been silent, in seconds for which the service was awake and watched."""

    run: RunDir
    pid: int
    patience_s: float
    clock: Clock
    phase: str = "load"
    step: int = 0
    silent_s: float = 0.0
    _unlooked_s: float = 0.0
    _signs: tuple[int, int] = field(default=(0, 0))

    def __post_init__(self) -> None:
        self._at = self.clock.monotonic()

    def heard(self, event: Json) -> None:
        """The process has said something."""
        self.phase = event["phase"] if event["event"] == "phase" else "train"
        self.step = event.get("step", self.step)
        self.silent_s = 0.0

    def too_long(self) -> bool:
        """Whether patience is over. To be asked every now and then: only the time between two looks is counted."""
        now = self.clock.monotonic()
        passed_s, self._at = min(now - self._at, LOOKED_S), now
        self.silent_s += passed_s
        self._unlooked_s += passed_s
        if self._unlooked_s >= self.patience_s / LOOKS:
            self._unlooked_s = 0.0
            before, self._signs = self._signs, self._look()
            self.silent_s = self.silent_s if before == self._signs else 0.0
        return self.silent_s >= self.patience_s

    def reason(self) -> str:
        """Why the attempt is given up."""
        minutes = f"{self.patience_s / 60:.3g} minute{'' if self.patience_s == 60 else 's'}"
        return f"hung: no {AWAITED.get(self.phase, 'step')} for {minutes} at step {self.step}"

    def _look(self) -> tuple[int, int]:
        return sum(path.stat().st_size for path in self.run.kept_answers()), self._disk_bytes()

    def _disk_bytes(self) -> int:
        if self.phase != "load":  # a hung process may still write its log
            return 0
        try:
            lines = Path(f"/proc/{self.pid}/io").read_text(encoding="ascii").splitlines()
        except OSError:
            return 0
        return sum(int(line.split()[1]) for line in lines if line.startswith(("read_bytes", "write_bytes")))
