"""`nightshift install` on a machine with systemd (programs of its names that note what they are asked) and without."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import made_study
import pytest
from typer.testing import CliRunner, Result

from search import install
from search.cli import app
from search.units import unit_name

NOTES = """#!/bin/sh
echo "$(basename $0) $@" >> {asked}
case "$*" in
  *Linger*) echo {linger} ;;
  *"{refused}"*) echo "Failed to connect to bus: No medium found" >&2; exit 1 ;;
esac
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a finished study, `tiny`, and the study.toml that it was made from."""
    place = tmp_path_factory.mktemp("a 100% home")
    file = made_study.write_study_file(place)
    made_study.MadeStudy(file, place / "studies" / "tiny", states="C")
    return place


@pytest.fixture(autouse=True)
def config_home(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of units, in a test's own folder; works from the made home."""
    monkeypatch.chdir(made)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("NIGHTSHIFT_HOME", *install.KEPT):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(install, "BOOTED", tmp_path / "no-systemd")
    return tmp_path / "config" / "systemd" / "user"


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[[], list[str]]]:
    """Let systemd run this machine; returns what its programs were asked since one last asked that."""

    def make(linger: str = "no", refused: str = "nothing of this") -> Callable[[], list[str]]:
        programs, asked = tmp_path / "bin", tmp_path / "asked"
        programs.mkdir(exist_ok=True)
        for name in ("systemctl", "loginctl"):
            (programs / name).write_text(NOTES.format(asked=asked, linger=linger, refused=refused))
            (programs / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
        monkeypatch.setattr(install, "BOOTED", tmp_path)

        def said() -> list[str]:
            lines = asked.read_text().splitlines() if asked.exists() else []
            asked.write_text("")
            return [line for line in lines if line.startswith("systemctl")]

        return said

    return make


def nightshift(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), prog_name="nightshift")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_at_boot_and_again_and_at_an_hour_and_never(
    made: Path, config_home: Path, systemd: Callable[..., Callable[[], list[str]]]
) -> None:
    asked, name = systemd(), unit_name(made / "studies" / "tiny")
    answer = nightshift("install", "tiny")
    assert answer.exit_code == 0, answer.stderr
    assert names(config_home) == [f"{name}.service"]
    assert asked() == ["systemctl --user daemon-reload", f"systemctl --user enable {name}.service"]
    folder = shlex.quote(str(made / "studies" / "tiny"))
    assert f"wrote {config_home / name}.service\nafter every boot: nightshift start {folder}\n" in answer.stdout
    assert "for it to run without a login: loginctl enable-linger " in answer.stdout
    assert f"nightshift install --remove {folder}" in answer.stdout
    before = (config_home / f"{name}.service").read_text()

    assert nightshift("install", "studies/tiny").stdout == answer.stdout  # again: the same
    assert (config_home / f"{name}.service").read_text() == before
    asked()

    answer = nightshift("install", "tiny", "--at", "22:00", "--until", "06:30", "--budget", "16")
    assert names(config_home) == [f"{name}.service", f"{name}.timer"]
    assert asked() == [
        f"systemctl --user disable {name}.service",
        "systemctl --user daemon-reload",
        f"systemctl --user enable --now {name}.timer",
    ]
    assert f"every day at 22:00: nightshift start {folder} --until 06:30 --budget 16\n" in answer.stdout
    assert '"--until" "06:30" "--budget" "16"' in (config_home / f"{name}.service").read_text()

    assert nightshift("install", "tiny").exit_code == 0  # at boot again: the timer goes
    assert names(config_home) == [f"{name}.service"]
    assert f"systemctl --user disable --now {name}.timer" in asked()

    answer = nightshift("install", "tiny", "--remove")
    assert answer.stdout == f"removed {config_home / name}.service\n"
    assert asked() == [f"systemctl --user disable {name}.service", "systemctl --user daemon-reload"]
    assert names(config_home) == []
    answer = nightshift("install", "tiny", "--remove")
    assert (answer.exit_code, asked()) == (0, [])
    assert answer.stdout.endswith("no unit is installed for this study\n")


def test_where_it_may_run_without_a_login_that_is_not_asked_for(systemd: Callable[..., object]) -> None:
    systemd(linger="yes")
    assert "enable-linger" not in nightshift("install", "tiny").stdout


def test_a_systemd_that_does_not_answer_is_one_message(systemd: Callable[..., object], config_home: Path) -> None:
    systemd(refused="daemon-reload")
    answer = nightshift("install", "tiny")
    assert (answer.exit_code, answer.stdout) == (2, "")
    assert answer.stderr.startswith(
        "error: `systemctl --user daemon-reload` failed (Failed to connect to bus: No medium"
    )
    assert f"The units are in {config_home}. Give this command again in a session of your own" in answer.stderr


def test_without_systemd_the_crontab_s_line_is_said_and_nothing_is_written(made: Path, config_home: Path) -> None:
    answer = nightshift("install", "tiny", "--at", "03:07")
    assert answer.exit_code == 0
    assert "systemd does not run this machine, so nothing was written" in answer.stdout
    folder = str(made / "studies" / "tiny").replace("%", "\\%")
    assert f"7 3 * * * {sys.executable} -P -m search.cli start '{folder}' >> '{folder}/cron.log' 2>&1" in answer.stdout
    assert names(config_home) == []
    assert "a line in your crontab is yours to take out: crontab -e" in nightshift("install", "tiny", "--remove").stdout


def test_print_shows_all_of_it_and_writes_nothing(
    systemd: Callable[..., Callable[[], list[str]]], config_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = systemd()
    monkeypatch.setenv("HF_HOME", "/data/:cat:/hub")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    answer = nightshift("install", "tiny", "--at", "22:00", "--print")
    assert answer.exit_code == 0
    assert f"# {config_home}/nightshift-tiny-" in answer.stdout
    assert 'Environment="HF_HOME=/data/:cat:/hub"\n' in answer.stdout
    assert "OnCalendar=*-*-* 22:00:00\n" in answer.stdout
    assert "0 22 * * * HF_HOME=/data/:cat:/hub " in answer.stdout
    assert "hf_secret" not in answer.stdout
    assert (names(config_home), asked()) == ([], [])


def test_folders_are_named_as_they_are_seen_from_here(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", "hub")
    monkeypatch.setenv("NLTK_DATA", "/opt/nltk:words")
    monkeypatch.setenv("HF_HUB_CACHE", "~/hub")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    printed = nightshift("install", "tiny", "--print").stdout
    there = str(made).replace("%", "%%")
    for line in (f"HF_HOME={there}/hub", f"NLTK_DATA=/opt/nltk:{there}/words", "HF_HUB_CACHE=~/hub"):
        assert f'Environment="{line}"\n' in printed
    assert 'Environment="CUDA_VISIBLE_DEVICES=0"\n' in printed


def test_print_with_remove_removes_nothing(config_home: Path, systemd: Callable[..., Callable[[], list[str]]]) -> None:
    asked = systemd()
    assert nightshift("install", "tiny", "--at", "22:00").exit_code == 0
    there = names(config_home)
    asked()
    answer = nightshift("install", "tiny", "--remove", "--print")
    assert answer.stdout == "".join(f"would remove {config_home / name}\n" for name in there)
    assert (names(config_home), asked()) == (there, [])
    assert nightshift("install", "tiny", "--remove").exit_code == 0
    assert nightshift("install", "tiny", "--remove", "--print").stdout.endswith("no unit is installed for this study\n")


def test_a_study_that_never_began_is_begun_by_hand_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made_study.write_study_file(tmp_path)
    answer = nightshift("install", "study.toml")
    assert (answer.exit_code, answer.stdout) == (2, "")
    assert "studies/tiny: this study has never been started. Begin it by hand" in answer.stderr
    assert answer.stderr.rstrip().endswith("nightshift start study.toml")


def test_what_was_installed_can_be_removed_when_the_study_is_gone(
    tmp_path: Path, config_home: Path, systemd: Callable[..., object]
) -> None:
    systemd()
    gone = tmp_path / "studies" / "gone"
    config_home.mkdir(parents=True)
    (config_home / f"{unit_name(gone)}.service").write_text("[Service]\n")
    assert nightshift("install", str(gone), "--remove").exit_code == 0
    assert names(config_home) == []
    assert nightshift("install", str(gone), "--remove").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--at", "noon"], "--at 'noon': this is neither boot nor a time of day like 22:00, from 00:00 to 23:59"),
        (["--at", "24:00"], "--at '24:00': this is neither boot nor"),
        (["--until", "3am"], "'3am' is no time of day like 03:00, from 00:00 to 23:59"),
        (["--until", "03:00\n"], "'03:00\\n' is no time of day like 03:00"),
        (["--until", ""], "'' is no time of day like 03:00"),
    ],
)
def test_nonsense_is_one_line(arguments: list[str], said: str) -> None:
    for command in ("install", "start") if arguments[0] == "--until" else ("install",):
        answer = nightshift(command, "tiny", *arguments)
        assert (answer.exit_code, answer.stdout) == (2, "")
        assert answer.stderr.count("\n") == 1
        assert said in answer.stderr


def test_a_place_that_cannot_be_written_is_one_line(systemd: Callable[..., object], config_home: Path) -> None:
    systemd()
    config_home.parent.mkdir(parents=True)
    config_home.write_text("")
    answer = nightshift("install", "tiny")
    assert answer.exit_code == 2
    assert answer.stderr == f"error: {config_home}: it cannot be written: File exists\n"


def test_what_is_started_ends_at_once_with_0_for_a_finished_study(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (made / "studies" / "tiny" / "study.toml").read_text()
    monkeypatch.chdir("/")
    command = list(install.job(str(made / "studies" / "tiny"), "boot", None, None).command)
    assert "trials = 4" in text
    (made / "studies" / "tiny" / "study.toml").write_text(text.replace("trials = 4", "trials = 1"))
    made_again = {**os.environ, "HOME": str(made)}
    answer = subprocess.run(command, capture_output=True, text=True, env=made_again, cwd="/", timeout=120, check=False)
    (made / "studies" / "tiny" / "study.toml").write_text(text)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "tiny: all 1 trials are done" in answer.stdout
