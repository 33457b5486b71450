"""Units and crontab lines, read back by the rules of their manuals, and by systemd itself where it is installed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.errors import SearchError
from search.units import ANY_PATH, BOOT, Job, unit_name

UGLY = ["a b", "100%h", "$HOME", "${HOME}", "it's", 'say "x"', "né日本", ";", "back\\slash\\"]
UGLY += ["-x", "#no", "%%", " a ", "|x", "=", "a;b"]


def job(folder: str = "/home/anna/studies/tiny", at: str = BOOT, python: str = "/venv/bin/python", **env: str) -> Job:
    return Job(Path(folder), (python, "-P", "-m", "search.cli", "start", folder), env, at)


def read(unit: str) -> dict[str, dict[str, list[str]]]:
    """A unit by section and key, as systemd.syntax(7) says; a line that ends with a backslash would go on."""
    sections: dict[str, dict[str, list[str]]] = {}
    for line in unit.split("\n"):
        assert not line.endswith("\\")
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section.setdefault(key, []).append(value.strip())
    return sections


def words(value: str) -> list[str]:
    """The words of a command or an assignment: quotes, C escapes, then specifiers."""
    found = re.findall(r'"((?:[^"\\]|\\.)*)"(?: |$)', value)
    assert " ".join(f'"{word}"' for word in found) == value
    return [specified(re.sub(r"\\(.)", lambda m: {'"': '"', "\\": "\\"}[m[1]], word)) for word in found]


def specified(text: str) -> str:
    assert not re.search("%[^%]", re.sub("%%", "", text) + ".")
    return text.replace("%%", "%")


def command(unit: str) -> tuple[str, ...]:
    """What is run: the prefix : says that $ is left alone."""
    (line,) = read(unit)["Service"]["ExecStart"]
    first, *others = words(line)
    assert first[:2] == ":/"
    assert not set(first) & set("\"'\\")  # systemd refuses such a program
    run = (first[1:], *others)
    return run[3:] if run[:3] == ANY_PATH else run


def cron_gives(line: str) -> str:
    """What cron hands to the shell: up to the first bare %, with the others' backslash taken away."""
    fields = 1 if line.startswith("@") else 5
    text = line.split(" ", fields)[fields]
    assert not re.search(r"(?<!\\)%", text)
    return text.replace("\\%", "%")


names = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/"), min_size=1, max_size=12)
names = (st.sampled_from(UGLY) | names).filter(lambda name: name not in (".", ".."))


@given(parts=st.lists(names, min_size=1, max_size=3), python=names, value=names, at=st.sampled_from([BOOT, "03:07"]))
def test_every_path_comes_back_whole(parts: list[str], python: str, value: str, at: str) -> None:
    folder = "/" + "/".join(parts)
    made = job(folder, at, f"/{python}/bin/python", HF_HOME=value)
    units = made.units()
    assert list(units) == [f"{made.name}.service", *([] if at == BOOT else [f"{made.name}.timer"])]
    service = units[f"{made.name}.service"]
    assert command(service) == made.command
    assert specified(read(service)["Unit"]["ConditionPathExists"][0]) == f"{folder}/study.toml"
    assert words(read(service)["Service"]["Environment"][0]) == [f"HF_HOME={value}"]
    assert specified(read(service)["Unit"]["Description"][0]) == f"Nightshift ({folder})"
    if "\\" in f"{folder}{python}{value}":
        with pytest.raises(SearchError, match="a crontab cannot name a path with a backslash"):
            made.crontab()
    else:
        given = shlex.split(cron_gives(made.crontab()))
        assert given == [f"HF_HOME={value}", *made.command, ">>", f"{folder}/cron.log", "2>&1"]


def test_a_service_saves_is_not_restarted_and_leaves_nobody_behind() -> None:
    at_boot = read(job().units()[f"{job().name}.service"])
    assert at_boot["Install"] == {"WantedBy": ["default.target"]}
    expected = {
        "Restart": "no",
        "KillMode": "mixed",
        "TimeoutStopSec": "5min",
        "SuccessExitStatus": "143",
        "OOMPolicy": "continue",  # systemd would else end the service with a worker that was killed
        "Type": "exec",
    }
    assert {key: at_boot["Service"][key] for key in expected} == {key: [value] for key, value in expected.items()}
    daily = job(at="22:30").units()
    assert "Install" not in read(daily[f"{job().name}.service"])
    timer = read(daily[f"{job().name}.timer"])
    assert timer["Timer"] == {"OnCalendar": ["*-*-* 22:30:00"], "Persistent": ["false"]}
    assert timer["Install"] == {"WantedBy": ["timers.target"]}


def test_a_crontab_s_line() -> None:
    start = "/venv/bin/python -P -m search.cli start /home/anna/studies/tiny >> /home/anna/studies/tiny/cron.log 2>&1"
    assert job().crontab() == f"@reboot {start}"
    assert job(at="03:07").crontab() == f"7 3 * * * {start}"
    assert job(HF_HOME="/a 5%").crontab() == f"@reboot HF_HOME='/a 5\\%' {start}"


def test_studies_of_one_name_have_units_of_their_own() -> None:
    one, other = unit_name(Path("/a/studies/tiny")), unit_name(Path("/b/studies/tiny"))
    assert re.fullmatch("nightshift-tiny-[0-9a-f]{8}", one)
    assert one != other == unit_name(Path("/b/studies/tiny"))
    assert re.fullmatch("nightshift-study-[0-9a-f]{8}", unit_name(Path("/studies/日本")))


@given(st.characters(categories=["Cc", "Cs"]))
def test_what_cannot_be_written_is_refused(character: str) -> None:
    if "\x80" <= character < "\xa0":
        return  # odd, but letters to systemd, cron and shells
    with pytest.raises(SearchError, match=r"this has the character .* rename the path"):
        job(f"/a{character}b")


@pytest.mark.parametrize("name", UGLY[:9])
def test_a_shell_runs_a_crontab_s_line_as_meant(name: str, tmp_path: Path) -> None:
    if "\\" in name:
        return
    folder = tmp_path / name
    folder.mkdir()
    code = "import os, sys; print(sys.argv[1], os.environ['HF_HOME'])"
    made = Job(folder, (sys.executable, "-c", code, str(folder)), {"HF_HOME": name}, BOOT)
    subprocess.run(["/bin/sh", "-c", cron_gives(made.crontab())], check=True)
    assert (folder / "cron.log").read_text() == f"{folder} {name}\n"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("name", UGLY)
def test_systemd_reads_what_is_meant(name: str, tmp_path: Path) -> None:
    made = job(f"/home/{name}/studies/tiny", "22:00", f"/venv {name}/python", HF_HOME=name)
    for file, text in made.units().items():
        (tmp_path / file).write_text(text)
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "SYSTEMD_LOG_LEVEL": "debug", "LC_ALL": "C.UTF-8"}
    verify = ["systemd-analyze", "--user", "--man=no", "verify", str(tmp_path / f"{made.name}.service")]
    answer = subprocess.run(verify, capture_output=True, text=True, env=environment, check=False)
    dump = answer.stdout + answer.stderr
    if "Command Line: " not in dump:
        pytest.skip("this systemd does not print what it read")
    assert f"ConditionPathExists: {made.folder}/study.toml " in dump
    assert f"Environment: HF_HOME={name}\n" in dump
    assert "KillMode: mixed" in dump
    (line,) = re.findall("Command Line: (.*)", dump)
    found = re.findall(r'"((?:[^"\\]|\\.)*)"|(\S+)', line)
    given = tuple(re.sub(r"\\(.)", r"\1", quoted or bare) for quoted, bare in found)
    assert (given[3:] if given[:3] == ANY_PATH else given) == made.command
