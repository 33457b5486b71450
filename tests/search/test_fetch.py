"""What a night needs, brought beforehand: from a server that speaks the hub's protocol, and from nltk's index."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import shutil
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import URLError

import nltk.data
import nltk.downloader
import pytest
import tiny
from typer.testing import CliRunner, Result

from objectives.sentences import fetch_punkt, punkt_available
from search import config, fetch
from search.cli import app
from train.rundir import RunDir, write_json

REVISION = "0123456789abcdef0123456789abcdef01234567"
COUNTED = {
    "prompt": "Write two sentences.",
    "instruction_id_list": ["length_constraints:number_sentences"],
    "kwargs": [{"num_sentences": 2, "relation": "at least"}],
}


def nightshift(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), prog_name="nightshift")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_study(tmp_path_factory.mktemp("fetch")).parent


@pytest.fixture
def study(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny study in the working folder, with an empty cache of the hub and an empty folder of nltk's data."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk_data")])
    (tmp_path / "nltk_data").mkdir(mode=0o755)
    shutil.copytree(whole, tmp_path / "s")
    monkeypatch.chdir(tmp_path / "s")
    monkeypatch.delenv("NIGHTSHIFT_HOME", raising=False)
    return tmp_path / "s" / "study.toml"


def on_hub(study: Path) -> None:
    """The study's base model and one data set become ids of the hub; what they name lies in model/ no more."""
    text = study.read_text().replace('model = "model"', f'model = "someone/small"\nrevision = "{REVISION}"')
    study.write_text(text.replace('path = "chat.jsonl"', f'hub = "someone/chat"\nrevision = "{REVISION}"'))


def with_counted_sentences(study: Path) -> None:
    prompts = study.parent / "prompts.jsonl"
    rows = [json.dumps({"key": 9000 + n, **COUNTED, "prompt": f"{COUNTED['prompt']} {n}"}) for n in range(2)]
    prompts.write_text(prompts.read_text() + "\n".join(rows) + "\n")


def serve(monkeypatch: pytest.MonkeyPatch, handler: type[BaseHTTPRequestHandler] | None) -> ThreadingHTTPServer:
    """A hub on this machine; without a handler an address where nobody answers."""
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), handler or BaseHTTPRequestHandler)
    if handler:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    else:
        server.server_close()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", constants.ENDPOINT)
    files = constants.HUGGINGFACE_CO_URL_TEMPLATE.partition("/{repo_id}")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", constants.ENDPOINT + "".join(files[1:]))
    return server


def hub_of(repositories: dict[str, dict[str, bytes]]) -> type[BaseHTTPRequestHandler]:
    """The hub's protocol, as far as a download needs it: a revision, its tree, its files."""

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            repo = next(name for name in repositories if f"/{name}/" in path)
            files = repositories[repo]
            if path.endswith(f"/revision/{REVISION}"):
                self._say(json.dumps({"id": repo, "sha": REVISION, "siblings": []}).encode())
            elif "/tree/" in path:
                tree = [{"type": "file", "path": n, "size": len(d), "oid": _oid(d)} for n, d in files.items()]
                self._say(json.dumps(tree).encode())
            else:
                data = files[path.rpartition(f"/resolve/{REVISION}/")[2]]
                self._say(data, {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": REVISION})

        do_HEAD = do_GET

        def _say(self, data: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(200)
            for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    return Hub


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def hub(study: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """A hub with the study's model and one of its data sets, which lie on this machine no more."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", study.parent.parent / "datasets")
    model = {path.name: path.read_bytes() for path in (study.parent / "model").iterdir()}
    chat = {"data/train.jsonl": (study.parent / "chat.jsonl").read_bytes()}
    shutil.rmtree(study.parent / "model")
    (study.parent / "chat.jsonl").unlink()
    on_hub(study)
    server = serve(monkeypatch, hub_of({"someone/small": model, "someone/chat": chat}))
    yield server
    server.shutdown()
    server.server_close()


def lines(answer: Result) -> dict[str, str]:
    """The state of each thing, by its name."""
    told = [line for line in answer.stdout.splitlines() if ": " in line and not line.startswith(" ")]
    return {line[12:].partition(":")[0]: line[:12].strip() for line in told}


def test_what_is_on_this_machine_is_there_and_the_next_command_is_named(study: Path) -> None:
    answer = nightshift("fetch", "study.toml")
    assert answer.exit_code == 0, answer.output
    assert lines(answer) == {
        "base model and tokenizer": "there",
        "prompts": "there",
        "data plain": "there",
        "data chat": "there",
        "data pairs": "there",
        "nltk's punkt_tab": "not needed",
    }
    assert "Next:\n\n    nightshift start study.toml\n" in answer.stdout


def test_what_the_hub_has_is_brought_once_and_needs_no_network_after(
    study: Path, hub: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = nightshift("fetch", "study.toml")
    assert first.exit_code == 0, first.output
    assert lines(first) | {"base model and tokenizer": "brought", "data chat": "brought"} == lines(first)
    assert f"someone/small, commit {REVISION}" in first.stdout
    hub.shutdown()
    serve(monkeypatch, None)
    again = nightshift("fetch", "study.toml")
    assert again.exit_code == 0, again.output
    assert set(lines(again).values()) == {"there", "not needed"}


def test_without_a_network_each_thing_gets_one_line_and_no_second_try(
    study: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    on_hub(study)
    with_counted_sentences(study)
    serve(monkeypatch, None)
    monkeypatch.setattr(nltk.downloader, "urlopen", _refuse)
    with caplog.at_level(logging.WARNING):
        answer = nightshift("fetch", "study.toml")
    assert answer.exit_code == 2
    assert "Retrying" not in caplog.text + answer.stderr
    states = lines(answer)
    failed = {"base model and tokenizer", "data chat", "nltk's punkt_tab"}
    assert {name for name, state in states.items() if state == "failed"} == failed
    assert len(states) == len(answer.stdout.splitlines()) == 6
    assert "the hub cannot be reached, and the cache does not hold the whole model someone/small" in answer.stdout
    assert "3 of 6 things are missing" in answer.stderr
    assert answer.stderr.rstrip().endswith("run this again: nightshift fetch study.toml")


def test_ifeval_s_own_file_comes_with_its_command(study: Path, nltk_server: list[str]) -> None:
    study.write_text(study.read_text().replace('"prompts.jsonl"', '"ifeval_input_data.jsonl"'))
    answer = nightshift("fetch", "study.toml")
    assert lines(answer)["prompts"] == "failed"
    assert "hf download google/IFEval ifeval_input_data.jsonl" in answer.stdout


# nltk


def _refuse(*_: Any, **__: Any) -> Any:
    raise URLError("no network")


@pytest.fixture
def nltk_server(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """nltk's index and its package, with nothing learned in it; the addresses that were asked."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name in ("abbrev_types.txt", "collocations.tab", "sent_starters.txt", "ortho_context.tab"):
            file.writestr(f"punkt_tab/english/{name}", "zz" if name == "abbrev_types.txt" else "")
    body = archive.getvalue()
    index = f"""<nltk_data><packages><package id="punkt_tab" subdir="tokenizers" name="Punkt" unzip="1"
        size="{len(body)}" unzipped_size="2" sha256_checksum="{hashlib.sha256(body).hexdigest()}"
        url="https://somewhere/packages/tokenizers/punkt_tab.zip"/></packages><collections/></nltk_data>"""
    asked: list[str] = []

    def urlopen(url: str, **_: Any) -> io.BytesIO:
        asked.append(url)
        return io.BytesIO(body if url.endswith(".zip") else index.encode())

    monkeypatch.setattr(nltk.downloader, "urlopen", urlopen)
    return asked


def test_punkt_is_brought_to_where_the_checkers_find_it(study: Path, nltk_server: list[str]) -> None:
    with_counted_sentences(study)
    before = fetch.notice(config.load(study), study.parent)
    assert before.startswith("warning: nltk's punkt_tab is not installed: 2 of 26 prompts")
    assert before.endswith(f"nightshift fetch {study}")
    assert lines(nightshift("fetch", "study.toml"))["nltk's punkt_tab"] == "brought"
    assert punkt_available()
    assert fetch.notice(config.load(study), study.parent) == ""
    asked = len(nltk_server)
    assert "there       nltk's punkt_tab\n" in nightshift("fetch", "study.toml").stdout
    assert len(nltk_server) == asked


@pytest.mark.usefixtures("study")
def test_what_nltk_says_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nltk.downloader, "urlopen", _refuse)
    with pytest.raises(OSError, match="punkt_tab: <urlopen error no network>"):
        fetch_punkt()


def test_a_study_that_was_judged_without_punkt_goes_on_without_it(study: Path, nltk_server: list[str]) -> None:
    with_counted_sentences(study)
    folder = study.parent / "studies" / "tiny"
    result = RunDir(folder / "runs" / "base").result
    result.parent.mkdir(parents=True)
    write_json(result, {"outcome": "completed", "score": {"exact": False}})
    assert lines(nightshift("fetch", "study.toml"))["nltk's punkt_tab"] == "not needed"
    assert nltk_server == []
    assert fetch.notice(config.load(study), folder).endswith("not exact, as this study's so far")
    fetch_punkt()
    assert "by nltk's punkt_tab now and without it in this study so far" in fetch.notice(config.load(study), folder)


def test_prompts_without_such_instructions_or_that_cannot_be_read_are_no_reason_to_warn(study: Path) -> None:
    read = config.load(study)
    assert fetch.notice(read, study.parent) == ""
    (study.parent / "prompts.jsonl").unlink()
    assert fetch.notice(read, study.parent) == ""
