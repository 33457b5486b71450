"""`nightshift push`, through huggingface_hub, to a hub on the loopback interface; nothing of it is for everybody to see
unless that is asked for, and the token is never written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hub_on_loopback
import pytest
import tiny_scored
from hub_on_loopback import TOKEN, Hub


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that is pushed."""
    return tiny_scored.write_run(tmp_path_factory.mktemp("pushed")).path


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "studies" / "tiny" / "runs" / "003"))


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_on_loopback.serving() as served:
        yield served


def push(run: Path, address: str, *arguments: str, token: str | None = TOKEN) -> tuple[int, str]:
    """The command as a user starts it, with a home of its own for the hub's token."""
    home = run.parents[3] / "hf"
    home.mkdir(exist_ok=True)
    if token:
        (home / "token").write_text(token)
    hub = {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    ran = subprocess.run(
        [sys.executable, "-m", "search.cli", "push", str(run), *arguments],
        env={**outside, **hub, "COLUMNS": "300"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert "Traceback" not in ran.stderr, ran.stderr
    assert TOKEN not in ran.stdout + ran.stderr
    return ran.returncode, ran.stdout + ran.stderr


def test_an_adapter_is_uploaded_for_its_owner_alone(run: Path, hub: Hub) -> None:
    code, said = push(run, hub.address, "me/tiny")
    assert code == 0, said
    assert f"uploaded to {hub.address}/me/tiny, which nobody but you sees" in said
    assert hub.private == {"me/tiny": True}
    assert hub.files.keys() >= {"README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja"}
    weights = "adapter_model.safetensors"
    assert hub.files[weights] == (run / "adapter" / weights).read_bytes()
    base = str(run.parents[3])
    assert not any(base.encode() in content for content in hub.files.values())  # where it lies is nobody's business
    held = [path for path in run.parents[2].rglob("*") if path.is_file()]
    assert not any(TOKEN.encode() in path.read_bytes() for path in held)
    assert not list(run.glob(".nightshift-push-*"))


def test_merged_weights_for_everybody_when_that_is_asked_for(run: Path, hub: Hub) -> None:
    code, said = push(run, hub.address, "me/tiny", "--format", "merged", "--public")
    assert code == 0, said
    assert hub.private == {"me/tiny": False}
    assert hub.files.keys() >= {"README.md", "config.json", "model.safetensors", "tokenizer.json"}


def test_a_repository_that_everybody_sees_is_left_alone(run: Path, hub: Hub) -> None:
    hub.private["me/tiny"] = False
    code, said = push(run, hub.address, "me/tiny")
    assert code == 2
    assert "me/tiny is there already, and everybody sees it: name another, or add --public if that is meant" in said
    assert not hub.files


def test_without_a_token_one_line_says_how_to_get_one(run: Path, hub: Hub) -> None:
    code, said = push(run, hub.address, "me/tiny", token=None)
    assert (code, said) == (2, "error: there is no token for the hub: log in with: hf auth login\n")
    assert not hub.asked


def test_a_token_that_may_not_is_told(run: Path, hub: Hub) -> None:
    code, said = push(run, hub.address, "me/tiny", token="hf_other")
    assert code == 2
    assert "the hub does not let you write to me/tiny" in said
    assert "hf auth login" in said


def test_without_a_network_one_line_says_so(run: Path) -> None:
    code, said = push(run, "http://127.0.0.1:9", "me/tiny")
    assert code == 2
    assert "the hub cannot be reached (" in said
    assert f"made without it: `nightshift export {run} --format adapter`" in said
    assert said.count("\n") == 1


def test_an_id_that_is_none_is_told(run: Path, hub: Hub) -> None:
    code, said = push(run, hub.address, "me/tiny/../x")
    assert code == 2
    assert "'me/tiny/../x' is no id of a repository, such as name/model" in said
