"""Starts, watches and stops the worker: one process group that keeps the base model loaded.

Service and worker share nothing but files: the service puts `assignment.json` in the folder of the runs, and the
worker answers in the RunDir it names.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from search.errors import WorkerFailed
from search.worker import ASSIGNMENT
from storage.attempts import Holder, alive
from train.rundir import Json, read_json, write_json

QUIT_PATIENCE_S = 5.0
KILL_PATIENCE_S = 60.0  # for the kernel: a process that holds much memory takes seconds to go
VMSTAT = Path("/proc/vmstat")
OUT_OF_MEMORY = "by the kernel for want of main memory"


class Process(Protocol):
    """What the service asks of a worker that was started: see Worker, the one that is a process."""

    @property
    def holder(self) -> Holder: ...
    def assign(self, run: str, attempt: int) -> None: ...
    def exit_code(self) -> int | None: ...
    def how_it_ended(self) -> str: ...
    def quit(self) -> None: ...
    def kill(self) -> None: ...


class Worker:
    """A started worker process. Take it with `Worker.start`; end it with `quit` or `kill`, which are idempotent."""

    def __init__(self, runs: Path, process: subprocess.Popen[bytes], token: str) -> None:
        self.runs = runs
        self.token = token
        self.holder = Holder.of_process(process.pid)
        self._process = process
        self._oom_kills = oom_kills()

    @classmethod
    def start(cls, runs: Path, log: Path, *, threads: int, device: str) -> Worker:
        """Start a worker in a session of its own; what it prints goes to `log`."""
        token = uuid.uuid4().hex
        arguments = [sys.executable, "-P", "-m", "search.worker", str(runs), token, str(os.getpid()), device]
        with open(log, "ab") as output:
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **environment(threads)},
            )
        return cls(runs, process, token)

    def assign(self, run: str, attempt: int) -> None:
        """Give the worker the run of that name; it begins as soon as it has read the file."""
        self._write({"run": run, "attempt": attempt})

    def exit_code(self) -> int | None:
        """None while it lives; else its exit code, negative for a signal."""
        return self._process.poll()

    def how_it_ended(self) -> str:
        """`exit code 1`, `killed by SIGTERM`, or whether it was the kernel that killed it, for want of memory."""
        code = self._process.wait()
        if code >= 0:
            return f"exit code {code}"
        known = f"killed by {signal.Signals(-code).name}"
        if -code != signal.SIGKILL:
            return known
        before, now = self._oom_kills, oom_kills()
        if before is None or now is None:
            return f"{known}, perhaps for want of memory"
        return f"{known}, " + (OUT_OF_MEMORY if now > before else "not by the kernel's out-of-memory killer")

    def quit(self) -> None:
        """Ask the idle worker to end, and kill it if it does not."""
        if self.exit_code() is None:
            self._write({"run": None, "attempt": None})
            try:
                self._process.wait(QUIT_PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """End the whole process group at once and wait until it is gone.

        Raises WorkerFailed where it cannot be ended: it then waits for a driver that hangs.
        """
        kill_group(self._process.pid)
        try:
            self._process.wait(KILL_PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise WorkerFailed(
                f"process {self._process.pid} was killed and is there {KILL_PATIENCE_S:.0f} s later, as happens when a "
                "driver hangs. What was finished is safe: restart the machine, then run `nightshift start` again."
            ) from None

    def _write(self, order: Json) -> None:
        write_order(self.runs, self.holder, self.token, order)


def write_order(runs: Path, holder: Holder, token: str, order: Json) -> None:
    """Leave an order for the worker with that token: a run and an attempt, or None and None for its end."""
    worker = {"pid": holder.pid, "boot_id": holder.boot_id, "pid_started": holder.started}
    write_json(runs / ASSIGNMENT, {**order, "token": token, "host": holder.host, **worker})


def end_orphan(runs: Path) -> bool:
    """Kill a worker that an earlier service left behind, if it is alive; True if there was one.

    A worker dies with its service (see search.worker), so this finds something only where the kernel was slow.
    """
    order = read_json(runs / ASSIGNMENT)
    if order is None:
        return False
    holder = Holder(host=order["host"], boot_id=order["boot_id"], pid=order["pid"], started=order["pid_started"])
    if not alive(holder):
        return False
    kill_group(holder.pid)
    while alive(holder):
        time.sleep(0.01)
    return True


def oom_kills() -> int | None:
    """How many processes this machine's kernel has killed for want of memory since boot; None where it does not say."""
    with contextlib.suppress(OSError, ValueError):
        counters = dict(line.split() for line in VMSTAT.read_text(encoding="ascii").splitlines())
        return int(counters["oom_kill"]) if "oom_kill" in counters else None
    return None


def kill_group(pid: int) -> None:
    """SIGKILL to the process group that `pid` leads; nothing if it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def environment(threads: int) -> Mapping[str, str]:
    """What a process that computes is started with."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # cards numbered as nvidia-smi does, not by speed
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
