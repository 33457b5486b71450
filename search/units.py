"""What makes a study go on by itself, as text: a systemd user service with its timer, or a line of a crontab. Pure.

Quoting follows systemd.syntax(7), systemd.unit(5) and systemd.service(5): the words of a command stand in double quotes
with C escapes, % is doubled everywhere, and the prefix ":" keeps $ from being replaced. Conditions and descriptions are
taken as they stand. In a crontab the shell reads a command after cron has, for which % needs a backslash.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from search.errors import SearchError

BOOT = "boot"
STOP_MINUTES = 5  # for a step, a checkpoint and the worker's end; a shutdown may leave less
ANY_PATH = ("/bin/sh", "-c", 'exec "$0" "$@"')  # systemd starts no program with a quote or a backslash in its path

SERVICE = """\
# Written by `nightshift install`; `nightshift install --remove` removes it.
[Unit]
Description=Nightshift ({description})
ConditionPathExists={condition}

[Service]
Type=exec
ExecStart={command}
{environment}Restart=no
# SIGTERM goes to the service alone, which has its worker save; what is left after that time is killed with its group.
KillMode=mixed
TimeoutStopSec={stop_minutes}min
SuccessExitStatus=143
# The kernel's end of a worker for want of memory is the service's to mend: it starts another at the checkpoint.
OOMPolicy=continue
{install}"""
AT_BOOT = """
[Install]
WantedBy=default.target
"""
TIMER = """\
# Written by `nightshift install`; `nightshift install --remove` removes it.
[Unit]
Description=Nightshift at {at} ({description})

[Timer]
OnCalendar=*-*-* {at}:00
# A night that was missed while the machine was off is not made up for in the day.
Persistent=false

[Install]
WantedBy=timers.target
"""


@dataclass(frozen=True)
class Job:
    """A study in `folder` that a command goes on with, `at` every boot or at a time of day like 22:00."""

    folder: Path
    command: tuple[str, ...]
    environment: Mapping[str, str]
    at: str

    def __post_init__(self) -> None:
        for text in (str(self.folder), *self.command, *(f"{k}={v}" for k, v in self.environment.items())):
            check_sayable(text)

    @property
    def name(self) -> str:
        """The units' name without its ending."""
        return unit_name(self.folder)

    def units(self) -> dict[str, str]:
        """The text of each unit by its file's name."""
        described = {"description": _verbatim(str(self.folder)), "at": self.at}
        service = SERVICE.format(
            **described,
            condition=_verbatim(str(self.folder / "study.toml")),
            command=exec_line(self.command),
            environment="".join(f"Environment={quoted(f'{k}={v}')}\n" for k, v in sorted(self.environment.items())),
            stop_minutes=STOP_MINUTES,
            install=AT_BOOT if self.at == BOOT else "",
        )
        timer = {} if self.at == BOOT else {f"{self.name}.timer": TIMER.format(**described)}
        return {f"{self.name}.service": service, **timer}

    def crontab(self) -> str:
        """The line of a crontab. Raises SearchError for a backslash, which crons take in different ways."""
        hour, minute = (0, 0) if self.at == BOOT else map(int, self.at.split(":"))
        set_first = [f"{key}={shlex.quote(value)}" for key, value in sorted(self.environment.items())]
        log = shlex.quote(str(self.folder / "cron.log"))
        line = " ".join([*set_first, shlex.join(self.command), ">>", log, "2>&1"])
        if "\\" in line:
            raise SearchError(f"{self.folder}: a crontab cannot name a path with a backslash; rename what has it")
        return f"{'@reboot' if self.at == BOOT else f'{minute} {hour} * * *'} {line.replace('%', chr(92) + '%')}"


def unit_name(folder: Path) -> str:
    """A name for the units of the study in `folder` (absolute), its own even where two studies are called the same."""
    digest = hashlib.sha256(str(folder).encode(errors="surrogateescape")).hexdigest()[:8]
    return f"nightshift-{re.sub('[^A-Za-z0-9_]+', '-', folder.name)[:64].strip('-') or 'study'}-{digest}"


def check_sayable(text: str) -> None:
    """Raise SearchError for what neither a unit file nor a crontab can hold: control characters, what is no text."""
    if wrong := next((c for c in text if ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) < 0xE000), None):
        raise SearchError(f"{text!r}: this has the character {wrong!r}, which cannot be written down; rename the path")


def exec_line(command: tuple[str, ...]) -> str:
    """The value of ExecStart for a program (an absolute path) and its arguments, none of which systemd will change."""
    program, *arguments = (*ANY_PATH, *command) if set(command[0]) & set("\"'\\") else command
    return " ".join([quoted(f":{program}"), *map(quoted, arguments)])


def quoted(text: str) -> str:
    """One word as systemd reads it: quoted, with C escapes, specifiers doubled."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'


def _verbatim(text: str) -> str:
    return text.replace("%", "%%")
