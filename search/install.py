"""Has a study go on by itself, at every boot or at a time of day: writes systemd user units, or says a crontab's line.

What is started is `nightshift start FOLDER`, which goes on where the study was, and ends at once when it is finished.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from search import home
from search.errors import MachineUnfit, SearchError
from search.units import BOOT, STOP_MINUTES, Job, unit_name
from train.rundir import write_atomic

BOOTED = Path("/run/systemd/system")  # is there where systemd runs the machine; see sd_booted(3)
PATIENCE_S = 60.0
KEPT = (  # of the environment, where it is set: what decides which card, and where models and data are
    "CUDA_VISIBLE_DEVICES",
    "HF_DATASETS_CACHE",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "LD_LIBRARY_PATH",
    "NLTK_DATA",
    "XDG_CACHE_HOME",
)
NO_FOLDERS = ("CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE")
LISTS = ("LD_LIBRARY_PATH", "NLTK_DATA")  # of folders


def job(argument: str | None, at: str, until: str | None, budget_hours: float | None) -> Job:
    """What is to be started, by absolute paths alone. Raises SearchError where the study has never been started."""
    config, folder = home.study(argument)
    folder = Path(os.path.abspath(folder))
    if not (folder / home.STUDY_FILE).is_file():
        raise SearchError(
            f"{folder}: this study has never been started. Begin it by hand, so that what is missing is seen by day: "
            f"{shlex.join(['nightshift', 'start', str(config.path)])}"
        )
    options = [*(["--until", until] if until else []), *(["--budget", f"{budget_hours:g}"] if budget_hours else [])]
    command = (os.path.abspath(sys.executable), "-P", "-m", "search.cli", "start", str(folder), *options)
    environment = {name: _absolute(name, value) for name in KEPT if (value := os.environ.get(name))}
    return Job(folder, command, environment, at)


def _absolute(name: str, value: str) -> str:
    """The value of a variable as another working folder sees it: systemd and cron start in the home."""
    if name in NO_FOLDERS:
        return value
    folders = value.split(":") if name in LISTS else [value]
    return ":".join(os.path.abspath(path) if path and path[0] not in "/~$" else path for path in folders)


def shown(job: Job) -> list[str]:
    """Everything that could be written, as text."""
    units = [line for name, text in job.units().items() for line in (f"# {folder_of_units() / name}", text)]
    return [*units, f"# or, with `crontab -e`:\n{job.crontab()}"]


def install(job: Job) -> list[str]:
    """Write the units and enable them, in place of those that were there; returns what to tell.

    Without systemd nothing is written, and the crontab's line is told. Raises MachineUnfit where the user's systemd
    does not answer.
    """
    if not booted():
        return [
            "systemd does not run this machine, so nothing was written. To have cron do it, add this line with "
            f"`crontab -e`:\n\n{job.crontab()}\n"
        ]
    units, folder = job.units(), folder_of_units()
    lines = _clear(job.name, keep=set(units))
    _write(folder, units)
    last = list(units)[-1]  # the timer, where there is one
    _systemctl("daemon-reload", folder=folder)
    _systemctl("enable", *(["--now"] if last.endswith(".timer") else []), last, folder=folder)
    when = "after every boot" if job.at == BOOT else f"every day at {job.at}"
    return [
        *lines,
        *(f"wrote {folder / name}" for name in units),
        f"{when}: {shlex.join(['nightshift', *job.command[4:]])}",
        *_linger(),
        f"what it prints: journalctl --user -u {job.name}",
        f"to save and end it: nightshift stop {shlex.quote(str(job.folder))} (or systemctl --user stop, which waits "
        f"{STOP_MINUTES} minutes)",
        f"to undo this: nightshift install --remove {shlex.quote(str(job.folder))}",
    ]


def remove(argument: str | None) -> list[str]:
    """Take back what `install` did for a study, which may be gone; a night that runs goes on. Idempotent."""
    folder = _installed(argument)
    there = _there(unit_name(folder))
    lines = _clear(unit_name(folder), keep=set()) or [_none(folder)]
    if there and booted():
        _systemctl("daemon-reload", folder=folder_of_units())
    return lines if booted() else [*lines, "a line in your crontab is yours to take out: crontab -e"]


def removable(argument: str | None) -> list[str]:
    """What `remove` would take back. Changes nothing."""
    folder = _installed(argument)
    return [f"would remove {path}" for path in _there(unit_name(folder))] or [_none(folder)]


def _installed(argument: str | None) -> Path:
    """The folder of the study whose units are meant, as an absolute path; the study may be gone."""
    try:
        folder = home.folder(argument)
    except SearchError:
        if argument is None or not _there(unit_name(Path(os.path.abspath(argument)))):
            raise
        folder = Path(argument)
    return Path(os.path.abspath(folder))


def _none(folder: Path) -> str:
    return f"{folder}: no unit is installed for this study"


def booted() -> bool:
    """Whether systemd runs this machine."""
    return BOOTED.is_dir() and shutil.which("systemctl") is not None


def folder_of_units() -> Path:
    """Where a user's units lie."""
    given = Path(os.environ.get("XDG_CONFIG_HOME") or "")
    return (given if given.is_absolute() else Path.home() / ".config") / "systemd" / "user"


def _there(name: str) -> list[Path]:
    paths = [folder_of_units() / f"{name}.{kind}" for kind in ("service", "timer")]
    return [path for path in paths if path.is_file()]


def _clear(name: str, keep: set[str]) -> list[str]:
    """Disable the units of that name and delete those that are not kept: the other way of starting, or both."""
    for path in _there(name):
        if booted():  # a timer ends at once, a service that runs is left alone
            _systemctl("disable", *(["--now"] if path.suffix == ".timer" else []), path.name, folder=path.parent)
    gone = [path for path in _there(name) if path.name not in keep]
    for path in gone:
        path.unlink()
    return [f"removed {path}" for path in gone]


def _write(folder: Path, units: dict[str, str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in units.items():
            write_atomic(folder / name, text)
    except OSError as error:
        raise SearchError(f"{error.filename or folder}: it cannot be written: {error.strerror}") from None


def _systemctl(*arguments: str, folder: Path) -> None:
    command = ["systemctl", "--user", *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        failed, said = answer.returncode != 0, answer.stderr.strip().splitlines()
    except subprocess.TimeoutExpired:
        failed, said = True, ["no answer"]
    if failed:
        raise MachineUnfit(
            f"`{shlex.join(command)}` failed ({said[0] if said else 'without a word'}). The units are in {folder}. "
            "Give this command again in a session of your own, at the machine or over ssh, not through su or sudo."
        )


def _linger() -> list[str]:
    """What to say where a user's units end with the last session."""
    user = _user()
    try:
        command = ["loginctl", "show-user", user, "--property=Linger", "--value"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        lingers = answer.stdout.strip() == "yes"
    except (OSError, subprocess.TimeoutExpired):
        lingers = False
    if lingers:
        return []
    return [f"that is while you are logged in; for it to run without a login: loginctl enable-linger {user}"]


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
