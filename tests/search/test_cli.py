"""The command: quick to start, one clear message for each mistake, and never a traceback."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import made_study
import pytest
from typer.testing import CliRunner, Result

from search import home, loop, service
from search.cli import GO_ON, app

COMMANDS = [
    "rehearse",
    "init",
    "plan",
    "fetch",
    "start",
    "status",
    "stop",
    "dashboard",
    "freeze",
    "report",
    "score",
    "latency",
    "compare",
    "install",
    "export",
    "bundle",
    "push",
]
HEAVY = {"torch", "transformers", "optuna", "optuna_dashboard", "sqlalchemy", "matplotlib", "datasets", "lm_eval"}
NIGHTSHIFT = [sys.executable, "-m", "search.cli"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NIGHTSHIFT_HOME", raising=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one study, `tiny`, and the study.toml that it was made from."""
    place = tmp_path_factory.mktemp("made")
    made_study.MadeStudy(made_study.write_study_file(place), place / "studies" / "tiny", states="CCPXF")
    return place


def nightshift(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), prog_name="nightshift")


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    made = {**os.environ, "COLUMNS": "100", **environment}
    return subprocess.run([*NIGHTSHIFT, *arguments], capture_output=True, text=True, env=made, timeout=60, check=False)


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


# Starting


def test_help_loads_nothing_heavy() -> None:
    answer = process("--help")
    assert answer.returncode == 0
    assert all(f" {command} " in answer.stdout for command in COMMANDS)
    loaded = subprocess.check_output(
        [sys.executable, "-c", "import sys, search.cli; print(*{m.split('.')[0] for m in sys.modules})"], text=True
    )
    assert not HEAVY & set(loaded.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_that_says_what_its_options_do(command: str) -> None:
    answer = nightshift(command, "--help")
    assert answer.exit_code == 0
    assert answer.stdout.count("\n") > 8


def test_a_file_where_the_study_s_folder_belongs_is_named(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "tiny").write_text("")
    answer = process("start", str(made / "study.toml"), NIGHTSHIFT_HOME=str(tmp_path))
    assert answer.returncode == 2
    assert "studies/tiny is a file, and the study needs a folder of this name; move it away" in answer.stderr


def test_the_version_is_that_of_the_package() -> None:
    assert nightshift("--version").stdout == "nightshift 0.1.0\n"


def test_the_shell_completes_commands_studies_and_presets(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    for typed, expected in [
        ("nightshift st", "status"),
        ("nightshift status t", "tiny"),
        ("nightshift status s", "study.toml"),
    ]:
        words = {
            "COMP_WORDS": typed,
            "COMP_CWORD": str(len(typed.split()) - 1),
            "_NIGHTSHIFT_COMPLETE": "complete_bash",
        }
        assert expected in process(**words).stdout.split()


# init


def test_init_writes_a_preset_and_names_the_next_command(tmp_path: Path) -> None:
    answer = nightshift("init", "first", "--preset", "rehearsal")
    assert answer.exit_code == 0
    assert "nightshift start first/study.toml" in answer.stdout
    assert (tmp_path / "first" / "study.toml").read_text() == home.preset("rehearsal")
    assert nightshift("init").exit_code == 0
    assert (tmp_path / "study.toml").read_text() == home.preset("rtx-4070-ti")


def test_init_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text("mine")
    answer = nightshift("init")
    assert (answer.exit_code, answer.stdout) == (2, "")
    assert "study.toml: this is there already and was left as it is; name another folder" in answer.stderr
    assert (tmp_path / "study.toml").read_text() == "mine"


def test_init_in_what_is_no_folder_and_with_an_unknown_preset(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "it cannot be written: Not a directory" in nightshift("init", "file/sub").stderr
    answer = nightshift("init", "new", "--preset", "rtx-4070ti")
    assert answer.exit_code == 2
    assert "there is no preset rtx-4070ti; did you mean rtx-4070-ti? (known: rehearsal, rtx-4070-ti)" in answer.stderr
    assert not (tmp_path / "new").exists()


# Bad input


def test_a_bad_file_gives_one_line_for_each_error_and_writes_nothing(tmp_path: Path) -> None:
    text = home.preset("rehearsal").replace("trials = 16", 'trials = "16"').replace("[machine]", "[machin]")
    (tmp_path / "study.toml").write_text(text)
    before = files(tmp_path)
    answer = process("start", "study.toml")
    assert (answer.returncode, answer.stdout) == (2, "")
    head, *lines = answer.stderr.splitlines()
    assert head == "error:"
    places = [1 + text[: text.index(wrong)].count("\n") for wrong in ('trials = "16"', "[machin]")]
    assert [line.split(": ")[0] for line in lines] == [f"study.toml:{place}" for place in places]
    assert files(tmp_path) == before


def test_a_model_and_data_that_are_not_there_are_told_at_once_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(home.preset("rehearsal").replace("world/base", "./world/base"))
    before = files(tmp_path)
    answer = process("start", "study.toml")
    assert answer.returncode == 2
    found = answer.stderr.splitlines()[1:]
    assert [line.split(": ")[1] for line in found] == [
        "[base] model",
        "[[data]] clean path",
        "[[data]] noisy path",
        "[[data]] preferences path",
        "[objective] prompts",
    ]
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["start"], "Missing argument"),
        (["start", "gone.toml"], "gone.toml: there is no such file; `nightshift init` writes one"),
        (["start", "study.toml", "--until", "3am"], "is no time of day"),
        (["start", "study.toml", "--until", "24:00"], "is no time of day"),
        (["start", "study.toml", "--budget", "nan"], "is no number of hours above 0"),
        (["start", "study.toml", "--budget", "0"], "is no number of hours above 0"),
        (["start", "study.toml", "--budget", "-1"], "is no number of hours above 0"),
        (["start", "study.toml", "--budget", "ten"], "unable to parse"),
        (["strat"], "start"),
        (["status"], "there is no study.toml here and no study in studies; begin with `nightshift init`"),
        (["status", "night"], "night: there is no study of this name in studies, and no such file; there are none yet"),
        (["stop", "../night"], "../night: there is no study of this name"),
        (["dashboard", "--port", "99999"], "65535"),
        (["freeze", "[red]night"], "[red]night: there is no study of this name"),
    ],
)
def test_a_mistake_gets_one_message_and_exit_code_2(arguments: list[str], said: str) -> None:
    answer = nightshift(*arguments)
    assert (answer.exit_code, answer.stdout) == (2, "")
    assert said in " ".join(answer.stderr.replace("│", " ").split())
    assert "Traceback" not in answer.stderr


def test_a_name_nearly_right_and_one_of_several_are_told_apart(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / "studies" / name).mkdir(parents=True)
        (tmp_path / "studies" / name / "study.toml").write_text("")
    assert "did you mean first?" in nightshift("status", "frist").stderr
    several = nightshift("status").stderr
    assert "there are several studies in studies; say which: " in several
    assert {"first", "second"} <= set(several.replace(",", " ").split())


def test_an_unwritable_disk_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "studies").symlink_to("/sys")  # where nobody can make a folder
    made_study.write_study_file(tmp_path)
    answer = nightshift("start", "study.toml")
    assert answer.exit_code == 2
    assert answer.stderr.startswith("error: ")
    assert answer.stderr.count("\n") == 1


def test_text_that_the_terminal_cannot_show_is_no_error(tmp_path: Path, made: Path) -> None:
    answer = process("status", "né/日本.toml", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert (answer.returncode, "Traceback" in answer.stderr) == (2, False)
    answer = process("status", str(made / "study.toml"), PYTHONIOENCODING="ascii", LC_ALL="C")
    assert (answer.returncode, answer.stderr) == (0, "")


# status


def test_status_shows_the_study_by_file_folder_or_name(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    answers = [nightshift("status", *which) for which in ([], ["study.toml"], ["tiny"], ["studies/tiny"])]
    assert [answer.exit_code for answer in answers] == [0, 0, 0, 0]
    assert len({answer.stdout for answer in answers}) == 1
    assert "tiny   4 of 5 trials   not running" in answers[0].stdout


def test_status_finds_a_study_beside_its_file_and_in_the_home(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert nightshift("status", str(made / "study.toml")).exit_code == 0  # from another folder
    assert nightshift("status", str(made)).exit_code == 0
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(made))
    assert nightshift("status", "tiny").exit_code == 0
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(tmp_path))
    assert nightshift("status", str(made / "study.toml")).exit_code == 2


def test_status_knows_a_study_that_was_copied_elsewhere(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "studies" / "tiny", tmp_path / "backup")
    answer = nightshift("status", str(tmp_path / "backup"))
    assert answer.exit_code == 0
    assert answer.stdout == nightshift("status", str(made)).stdout.replace("tiny", "backup", 1)


def test_status_as_json_holds_everything(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    seen = json.loads(nightshift("status", "--json").stdout)
    assert (seen["name"], seen["trials_wanted"], len(seen["trials"])) == ("tiny", 5, 5)
    best = seen["trials"][seen["best"]]
    assert best["score"]["value"] == max(t["score"]["value"] for t in seen["trials"] if t["score"])
    assert set(best["rungs"]) == {"0.25", "0.5", "1.0"}


def test_a_reader_who_leaves_early_is_no_error(made: Path) -> None:
    for arguments in (["status", str(made), "--json"], ["status", str(made)], ["--help"]):
        reader, writer = os.pipe()
        os.close(reader)
        answer = subprocess.run([*NIGHTSHIFT, *arguments], stdout=writer, stderr=subprocess.PIPE, check=False)
        os.close(writer)
        assert b"Traceback" not in answer.stderr
        assert b"Exception" not in answer.stderr


# stop, and Ctrl-C

SERVICE = """
import signal, sys
from pathlib import Path
from search import service
asked = signal.SIGTERM
signal.pthread_sigmask(signal.SIG_BLOCK, {asked})
with service.claim(Path(sys.argv[1])) as claim:
    claim.announce(trials_wanted=1, budget_s=1.0, until=None)
    print("ready", flush=True)
    signal.sigwait({asked})
    if sys.argv[2] == "patient":
        sys.stdin.read()
    claim.ending = "it was asked to stop"
"""


def start_service(folder: Path, how: str) -> subprocess.Popen[str]:
    folder.mkdir(parents=True)
    (folder / "study.toml").write_text("")
    started = subprocess.Popen(
        [sys.executable, "-c", SERVICE, str(folder), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    return started


def test_stop_asks_the_service_and_waits_until_it_has_ended(tmp_path: Path) -> None:
    with start_service(tmp_path / "studies" / "night", "at once") as started:
        answer = nightshift("stop")
        assert (answer.exit_code, answer.stdout) == (0, "night: it was asked to stop\n")
        assert f"process {started.pid} was asked to stop" in answer.stderr
        assert started.wait(10) == 0
    answer = nightshift("stop", "night")
    assert answer.exit_code == 2
    assert "no service is at work on this study, so there is nothing to stop" in answer.stderr


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    with start_service(tmp_path / "studies" / "night", "patient") as started:
        with subprocess.Popen([*NIGHTSHIFT, "stop"], stderr=subprocess.PIPE, text=True) as waiting:
            assert waiting.stderr is not None
            assert "waiting until its trial is saved" in waiting.stderr.readline()
            waiting.send_signal(signal.SIGINT)
            assert waiting.stderr.read() == GO_ON + "\n"
        assert waiting.returncode == 130
        assert (facts := service.read(tmp_path / "studies" / "night"))
        assert facts.is_alive
        started.communicate("")


def test_status_names_the_study_of_the_folder_one_stands_in(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made / "studies" / "tiny")
    for arguments in ((), (".",)):
        assert nightshift("status", *arguments).stdout.startswith("tiny ")


def test_damaged_facts_of_the_service_are_one_line(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "studies", tmp_path / "studies")
    facts = tmp_path / "studies" / "tiny" / "service.json"
    for text in ('{"trials_wanted": 3}', "{}", '{"a":'):
        facts.write_text(text)
        answer = nightshift("status", "tiny")
        assert (answer.exit_code, answer.stdout) == (2, "")
        assert "service.json is damaged" in answer.stderr
        assert answer.stderr.endswith("the next `nightshift start` writes it anew\n")


def test_the_rehearsal_s_study_file_comes_with_the_command_for_its_world() -> None:
    said = nightshift("init", "a b", "--preset", "rehearsal").stdout
    assert "-P -m train.rehearsal 'a b/world'\n    nightshift start 'a b/study.toml'\n" in said
    assert "train.rehearsal" not in nightshift("init", "c").stdout


def test_start_from_an_unset_variable_is_refused(made: Path) -> None:
    answer = nightshift("start", str(made / "study.toml"), "--from", "")
    assert (answer.exit_code, answer.stdout) == (2, "")
    assert "--from names no study, as an unset variable of a shell does" in answer.stderr


def test_start_says_when_the_night_ends_and_where_a_disk_is_full(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(loop, "run", full)
    answer = nightshift("start", str(made / "study.toml"), "--until", "03:00")
    assert answer.exit_code == 2
    assert re.fullmatch(r"the night ends at 03:00, in \d+[hm] \d\d[ms]\n", answer.stdout)
    folder = made / "studies" / "tiny"
    assert answer.stderr.startswith(f"error: {folder}: No space left on device (or on the disk that takes")
    assert f"make room, then go on with `nightshift start {folder}`" in answer.stderr


# freeze, report


def test_freeze_writes_the_final_run_and_check_compares(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    answer = nightshift("freeze", "--check", "tiny")
    assert answer.exit_code == 2
    answer = nightshift("freeze", "tiny")
    assert answer.exit_code == 0, answer.stderr
    assert "python studies/tiny/final_run.py" in answer.stdout
    assert nightshift("freeze", "tiny", "--check").stdout == "studies/tiny/final_run.py and the study agree\n"
    written = made / "studies" / "tiny" / "final_run.py"
    written.write_text(written.read_text().replace('"dropout": 0.', '"dropout": 0.1', 1))
    answer = nightshift("freeze", "tiny", "--check")
    assert answer.exit_code == 2
    assert "dropout" in answer.stderr


def test_report_names_what_it_wrote(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    answer = nightshift("report")
    assert answer.exit_code == 0, answer.stderr
    wrote = [f"wrote studies/tiny/report.{kind}" for kind in ("html", "md", "pdf")]
    assert answer.stdout.splitlines()[:3] == wrote
    assert "to fill in, in studies/tiny/report_answers.toml: authors, base_model, " in " ".join(answer.stdout.split())
