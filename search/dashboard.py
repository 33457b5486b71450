"""Serves optuna-dashboard for one study: read-only, on 127.0.0.1 only, and behind a token.

optuna-dashboard has no authentication, no check of the Host header and no read-only switch, and machines in labs are
shared. So it gets a database that is opened read-only, and a guard in front of it:

    Host not a loopback name  403   a page elsewhere that rebinds its DNS name to 127.0.0.1 reads nothing
    no token, wrong token     401   other users of the machine reach the port, and no more
    not GET or HEAD           403   every read of optuna-dashboard's page is a GET
"""

from __future__ import annotations

import hmac
import json
import logging
import re
import secrets
import socketserver
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from search.errors import MachineUnfit
from storage import db

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

HOST = "127.0.0.1"
LOOPBACK = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.IGNORECASE)  # any port: there are tunnels
READS = frozenset({"GET", "HEAD"})
DRAIN_BYTES = 1 << 20  # of a refused request's body, so that its sender gets to see the answer
COMMON_HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
]
WRONG_HOST = "the Host header names no loopback address"
READ_ONLY = "this dashboard is read-only: the study is changed by `nightshift start` alone"
LOCKED_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Nightshift: token needed</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:34rem;margin:20vh auto;padding:0 1rem}</style>
<h1>Token needed</h1><p>Open the address that <code>nightshift dashboard</code> printed when it was started:
it ends in <code>/?token=…</code></p></html>"""


class Dashboard:
    """A dashboard that is bound to its port. `serve` answers requests until `stop`; closing it frees the port.

    with Dashboard(folder, 8080) as dashboard:
        print(dashboard.url)
        dashboard.serve()  # until stop(), or KeyboardInterrupt
    """

    def __init__(self, folder: Path, port: int) -> None:
        """Bind the dashboard of the study in `folder`; port 0 takes a free one.

        Raises MachineUnfit if the port cannot be had, and StorageError if the database cannot be read or is not there.
        """
        self.token = secrets.token_urlsafe(32)
        self._server = _bind(port)
        self.port = int(self._server.server_address[1])
        try:
            app, landing = _optuna_dashboard(folder)
        except BaseException:
            self._server.server_close()
            raise
        self._server.set_app(Guard(app, self.token, cookie=f"nightshift_{self.port}", landing=landing))

    @property
    def url(self) -> str:
        """The address with its token; whoever has it can read the study while this process lives."""
        return f"http://{HOST}:{self.port}/?token={self.token}"

    def serve(self) -> None:
        """Answer requests, each in its own thread, without Optuna's warnings about what its pages show."""
        warnings.filterwarnings("ignore", module=r"optuna\.")
        warnings.filterwarnings("ignore", category=UserWarning, message=".*may be inaccurate.*")
        self._server.serve_forever(poll_interval=0.2)

    def stop(self) -> None:
        """End `serve`; to be called from another thread."""
        self._server.shutdown()

    def __enter__(self) -> Dashboard:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._server.server_close()


class Guard:
    """WSGI middleware that lets through reads of those who have the token, and nothing else."""

    def __init__(self, app: WSGIApplication, token: str, *, cookie: str, landing: str) -> None:
        self._app = app
        self._token = token.encode()
        self._cookie = cookie
        self._landing = landing

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if not LOOPBACK.fullmatch(environ.get("HTTP_HOST", "")):
            return _answer(environ, start_response, "403 Forbidden", _reason(WRONG_HOST))
        if given := parse_qs(environ.get("QUERY_STRING", "")).get("token"):
            return self._enter(environ, start_response, given[0])
        if not self._is_token(_cookie(environ, self._cookie)):
            return _answer(environ, start_response, "401 Unauthorized", LOCKED_PAGE, "text/html; charset=utf-8")
        if environ["REQUEST_METHOD"] not in READS:
            return _answer(environ, start_response, "403 Forbidden", _reason(READ_ONLY))
        environ.setdefault("HTTP_ACCEPT_ENCODING", "")  # optuna-dashboard fails without it
        return self._app(environ, _with_headers(start_response))

    def _enter(self, environ: WSGIEnvironment, start_response: StartResponse, given: str) -> Iterable[bytes]:
        """Turn the token of the address into a cookie, so that it stays out of history, logs and Referer headers."""
        if not self._is_token(given):
            return _answer(environ, start_response, "401 Unauthorized", LOCKED_PAGE, "text/html; charset=utf-8")
        cookie = f"{self._cookie}={self._token.decode()}; HttpOnly; SameSite=Strict; Path=/"
        headers = [("Location", self._landing), ("Set-Cookie", cookie), ("Cache-Control", "no-store")]
        return _answer(environ, start_response, "303 See Other", "", headers=headers)

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._token)


def _optuna_dashboard(folder: Path) -> tuple[WSGIApplication, str]:
    """The WSGI application on a read-only storage, and the path of the study's own page."""
    path = folder / "study.db"
    db.check(path)

    from search.dashboard_pace import encode_fast, quicken, without_forests
    from storage import trials

    with without_forests():
        from optuna_dashboard import wsgi  # imported late: `nightshift --help` needs none of it

    quicken()
    logging.getLogger("optuna_dashboard").setLevel(logging.CRITICAL)  # its tracebacks help nobody at a terminal
    storage = trials.open_read_only(path)
    studies = storage.get_all_studies()
    landing = f"/dashboard/studies/{studies[0]._study_id}" if len(studies) == 1 else "/dashboard"
    app = wsgi(storage)
    encode_fast(app)
    return app, landing


def _bind(port: int) -> _Server:
    try:
        return _Server((HOST, port), _QuietHandler)
    except (OSError, OverflowError) as error:
        other = port + 1 if 1024 <= port < 65535 else 8081
        raise MachineUnfit(
            f"port {port} of {HOST} cannot be had ({_reason_of(error)}); pick another one: "
            f"`nightshift dashboard --port {other}`"
        ) from None


def _reason_of(error: Exception) -> str:
    return (error.strerror or str(error)).lower() if isinstance(error, OSError) else "ports go up to 65535"


class _QuietHandler(WSGIRequestHandler):
    timeout = 30  # a silent client does not hold a thread for ever

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """As WSGIServer's, without its look-up of the host's full name, which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away or keeps silent is no error of ours."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def _cookie(environ: WSGIEnvironment, name: str) -> str:
    """The value of that cookie, or an empty string. By hand: http.cookies drops all when another one is malformed."""
    for part in environ.get("HTTP_COOKIE", "").split(";"):
        key, _, value = part.strip().partition("=")
        if key == name:
            return str(value)
    return ""


def _reason(text: str) -> str:
    return json.dumps({"reason": text})


def _answer(
    environ: WSGIEnvironment,
    start_response: StartResponse,
    status: str,
    body: str,
    kind: str = "application/json",
    headers: Iterable[tuple[str, str]] = (),
) -> Iterable[bytes]:
    _drain(environ)
    data = body.encode()
    start_response(status, [("Content-Type", kind), ("Content-Length", str(len(data))), *COMMON_HEADERS, *headers])
    return [data if environ["REQUEST_METHOD"] != "HEAD" else b""]


def _drain(environ: WSGIEnvironment) -> None:
    length = environ.get("CONTENT_LENGTH") or "0"
    if length.isdecimal():
        environ["wsgi.input"].read(min(int(length), DRAIN_BYTES))


def _with_headers(start_response: StartResponse) -> StartResponse:
    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None, /) -> Callable[[bytes], object]:
        return start_response(status, [*headers, *COMMON_HEADERS], exc_info)

    return start
