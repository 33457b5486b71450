"""The dashboard over real HTTP: who gets in, what can be read, and that nothing can be changed."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
import pytest
from optuna_dashboard import save_note, wsgi

from search.dashboard import Dashboard
from search.errors import MachineUnfit
from storage import trials
from storage.db import StorageError


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Served:
    """A dashboard that is being served."""

    dashboard: Dashboard
    folder: Path

    def request(
        self, method: str, path: str, *, cookie: str | None = None, host: str | None = None, body: str | None = None
    ) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.dashboard.port, timeout=20)
        connection.putrequest(method, path, skip_host=True)
        for name, value in (("Host", host if host is not None else self.host), ("Cookie", cookie)):
            if value:
                connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders((body or "").encode())
        reply = connection.getresponse()
        return Reply(reply.status, dict(reply.getheaders()), reply.read())

    def read(self, path: str) -> Reply:
        return self.request("GET", path, cookie=self.cookie)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.dashboard.port}"

    @property
    def cookie(self) -> str:
        return f"nightshift_{self.dashboard.port}={self.dashboard.token}"


def write_study(folder: Path) -> None:
    """A real study with rungs, attributes and notes."""
    storage = trials.open_storage(folder / "study.db")
    study = optuna.create_study(storage=storage, study_name="tiny", direction="maximize")

    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("learning_rate", 1e-5, 1e-3, log=True)
        rank = trial.suggest_categorical("rank", [8, 16])
        trial.report(-1.2, 25)
        trial.report(-0.9, 100)
        trial.set_user_attr("run", f"{trial.number:03d}")
        save_note(trial, "### Completed")
        return 100 * rate + rank / 100

    study.optimize(objective, n_trials=8)
    storage.engine.dispose()


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Served]:
    with Dashboard(folder, 0) as dashboard:
        thread = threading.Thread(target=dashboard.serve, daemon=True)
        thread.start()
        try:
            yield Served(dashboard, folder)
        finally:
            dashboard.stop()
            thread.join(10)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("dashboard")
    write_study(folder)
    with serving(folder) as it:
        yield it


def digest(folder: Path) -> dict[str, str]:
    """Of every file, read by another process: closing a descriptor here would drop SQLite's locks."""
    program = "import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], 'rb').read()).hexdigest())"
    read = [sys.executable, "-c", program]
    return {
        path.name: subprocess.run([*read, str(path)], capture_output=True, text=True, check=True).stdout
        for path in sorted(folder.iterdir())
    }


def test_the_token_becomes_a_cookie_and_leaves_the_address(served: Served) -> None:
    reply = served.request("GET", served.dashboard.url.partition(served.host)[2])
    assert reply.status == 303
    assert reply.headers["Location"] == "/dashboard/studies/1"
    assert "token" not in reply.headers["Location"]
    assert reply.headers["Set-Cookie"] == f"{served.cookie}; HttpOnly; SameSite=Strict; Path=/"
    assert reply.headers["Cache-Control"] == "no-store"
    page = served.read(reply.headers["Location"])
    assert page.status == 200
    assert b"Optuna Dashboard" in page.body


@pytest.mark.parametrize("path", ["/", "/dashboard", "/api/studies", "/api/studies/1", "/csv/1", "/static/bundle.js"])
def test_without_the_token_nothing_is_shown(served: Served, path: str) -> None:
    reply = served.request("GET", path)
    assert reply.status == 401
    assert b"Token needed" in reply.body
    assert b"tiny" not in reply.body
    assert served.dashboard.token.encode() not in reply.body


@pytest.mark.parametrize("token", ["", "x", "é", "\x00", "a" * 43])
def test_a_wrong_token_is_refused(served: Served, token: str) -> None:
    assert served.request("GET", f"/?token={quote(token)}").status == 401
    cookie = f"nightshift_{served.dashboard.port}={token}"
    assert served.request("GET", "/api/studies", cookie=cookie).status == 401


def test_cookies_of_other_programs_on_localhost_do_no_harm(served: Served) -> None:
    cookie = f'session="{{a: 1}}"; broken; =x; {served.cookie}; other=[1,2]'
    assert served.request("GET", "/api/studies", cookie=cookie).status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example", "127.0.0.1@evil", "[::2]",
     "0.0.0.0:80", "localhost:x", "localhost:80:80", " "],
)  # fmt: skip
def test_a_forged_host_is_refused_even_with_the_token(served: Served, host: str) -> None:
    reply = served.request("GET", "/api/studies", cookie=served.cookie, host=host)
    assert reply.status == 403
    assert reply.json() == {"reason": "the Host header names no loopback address"}
    assert served.request("GET", f"/?token={served.dashboard.token}", host=host).status == 403


def test_a_missing_host_is_refused(served: Served) -> None:
    assert served.request("GET", "/api/studies", cookie=served.cookie, host="").status == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9000", "127.0.0.1:9000", "[::1]:9000"])
def test_a_tunnel_may_use_another_port(served: Served, host: str) -> None:
    assert served.request("GET", "/api/studies", cookie=served.cookie, host=host).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/dashboard",
        "/dashboard/studies/1/trials",
        "/api/meta",
        "/api/studies",
        "/api/studies/1?after=0",
        "/api/studies/1/param_importances",
        "/api/studies/1/plot/contour",
        "/api/studies/1/plot/slice",
        "/api/studies/1/plot/parallel_coordinate",
        "/api/studies/1/plot/rank",
        "/api/studies/1/plot/edf",
        "/api/studies/1/plot/timeline",
        "/csv/1",
        "/favicon.ico",
        "/static/bundle.js",
    ],
)
def test_everything_that_the_page_reads_is_there(served: Served, path: str) -> None:
    reply = served.read(path)
    assert reply.status == 200, reply.body[:200]
    assert reply.headers["X-Frame-Options"] == "DENY"
    assert reply.headers["Referrer-Policy"] == "no-referrer"
    assert served.request("HEAD", path, cookie=served.cookie).body == b""


def test_trials_come_with_rungs_attributes_and_notes(served: Served) -> None:
    detail = served.read("/api/studies/1").json()
    trial = detail["trials"][3]
    assert [value["step"] for value in trial["intermediate_values"]] == [25, 100]
    assert {"key": "run", "value": "003"} in trial["user_attrs"]
    assert trial["note"]["body"] == "### Completed"


def mutating_routes() -> list[tuple[str, str]]:
    """Every route of the installed optuna-dashboard that is no GET, with its parameters filled in."""
    app = wsgi(optuna.storages.InMemoryStorage())
    filled = [(route.method, re.sub(r"<[^>]*>", "1", route.rule)) for route in app.routes if route.method != "GET"]
    assert len(filled) >= 15
    return filled


BODIES = {
    "/api/studies": '{"study_name": "new", "directions": ["minimize"]}',
    "/api/studies/1/rename": '{"study_name": "renamed"}',
    "/api/trials/1/tell": '{"state": "Fail"}',
    "/api/trials/1/user-attrs": '{"user_attrs": {"a": 1}}',
    "/api/studies/1/note": '{"version": 1, "body": "x"}',
    "/api/studies/1/1/note": '{"version": 2, "body": "x"}',
}


PLAIN = """
import sys
from wsgiref.util import setup_testing_defaults
from optuna.storages import RDBStorage
from optuna_dashboard import wsgi
environ = {"PATH_INFO": "/api/studies/1", "HTTP_ACCEPT_ENCODING": ""}
setup_testing_defaults(environ)
app = wsgi(RDBStorage("sqlite:///" + sys.argv[1]))
print(b"".join(app(environ, lambda *_: None)).decode())
"""


def test_the_data_is_what_optuna_dashboard_gives_by_itself(served: Served) -> None:
    command = [sys.executable, "-c", PLAIN, str(served.folder / "study.db")]
    plain = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    for _ in range(2):  # the second answer is made from what is remembered
        assert json.loads(served.read("/api/studies/1").body) == plain
    assert plain["trials"][0]["note"]["body"] == "### Completed"


def test_nothing_can_be_changed(tmp_path: Path) -> None:
    write_study(tmp_path)
    before = digest(tmp_path)
    with serving(tmp_path) as served:
        for method, path in [*mutating_routes(), ("PATCH", "/api/studies/1"), ("OPTIONS", "/"), ("TRACE", "/")]:
            reply = served.request(method, path, cookie=served.cookie, body=BODIES.get(path, "{}"))
            assert reply.status == 403, (method, path)
            assert "read-only" in reply.json()["reason"]
            assert served.request(method, path, body="{}").status == 401, (method, path)
        assert len(served.read("/api/studies").json()["study_summaries"]) == 1
    assert digest(tmp_path) == before


def test_the_storage_itself_cannot_write(tmp_path: Path) -> None:
    """Even what got past the guard would fail."""
    write_study(tmp_path)
    before = digest(tmp_path)
    storage = trials.open_read_only(tmp_path / "study.db")
    with pytest.raises(optuna.exceptions.StorageInternalError):
        storage.delete_study(1)
    storage.engine.dispose()
    assert digest(tmp_path) == before


def test_a_study_that_goes_on_is_seen(tmp_path: Path) -> None:
    write_study(tmp_path)
    with serving(tmp_path) as served:
        storage = trials.open_storage(tmp_path / "study.db")
        study = optuna.load_study(storage=storage, study_name="tiny")
        study.enqueue_trial({"learning_rate": 1e-4, "rank": 8})
        assert len(served.read("/api/studies/1").json()["trials"]) == 9
        storage.engine.dispose()


def test_a_large_body_does_not_hide_the_answer(served: Served) -> None:
    reply = served.request("POST", "/api/studies", cookie=served.cookie, body="x" * 300_000)
    assert reply.status == 403


def test_only_loopback_is_bound(served: Served) -> None:
    assert served.dashboard.url.startswith("http://127.0.0.1:")
    assert served.dashboard._server.server_address[0] == "127.0.0.1"


def test_each_dashboard_has_a_token_of_its_own(tmp_path: Path) -> None:
    write_study(tmp_path)
    with Dashboard(tmp_path, 0) as first, Dashboard(tmp_path, 0) as second:
        assert first.token != second.token
        assert len(first.token) >= 40


def test_a_port_in_use_is_named_with_the_way_out(tmp_path: Path) -> None:
    write_study(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MachineUnfit, match=rf"port {port} .* in use.*`nightshift dashboard --port \d+`"):
            Dashboard(tmp_path, port)


def test_an_impossible_port_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MachineUnfit, match="port 70000"):
        Dashboard(tmp_path, 70000)


def test_without_a_database_the_port_is_free_again(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nightshift start"):
        Dashboard(tmp_path, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_database_is_told_before_anything_is_served(tmp_path: Path) -> None:
    write_study(tmp_path)
    path = tmp_path / "study.db"
    path.write_bytes(path.read_bytes()[:20_000] + b"\xff" * 20_000)
    with pytest.raises(StorageError, match="damaged"):
        Dashboard(tmp_path, 0)


def test_importing_it_is_cheap() -> None:
    program = "import sys, search.dashboard; print('optuna_dashboard' in sys.modules, 'torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["False", "False"]
