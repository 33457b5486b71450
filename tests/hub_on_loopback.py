"""A hub for models on the loopback interface: of huggingface_hub's protocol, as much as an upload needs."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "x" * 34  # nobody's


@dataclass
class Hub:
    """What the hub holds: of each repository whether it is private, and its files; `asked` are the paths asked for."""

    address: str = ""
    private: dict[str, bool] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.hub.asked.append(self.path)
        repo = self.path.removeprefix("/api/models/").partition("?")[0]
        if repo not in self.hub.private:
            return self._answer({"error": "not found"}, 404)
        return self._answer({"id": repo, "private": self.hub.private[repo], "siblings": []})

    def do_PUT(self) -> None:
        self.hub.blobs[self.path.rpartition("/")[2]] = self._body()
        self._answer({})

    def do_POST(self) -> None:
        self.hub.asked.append(self.path)
        body = self._body()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer({"error": "who are you?"}, 401)
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            mode = {True: "lfs", False: "regular"}
            modes = [{"path": f["path"], "uploadMode": mode[f["path"].endswith(".safetensors")]} for f in files]
            return self._answer({"files": [{**one, "shouldIgnore": False} for one in modes]})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [self._upload(one) for one in json.loads(body)["objects"]]
            return self._answer({"transfer": "basic", "objects": objects})
        if "/commit/" in self.path:
            return self._commit([json.loads(line) for line in body.splitlines()])
        return self._answer({})

    def _create(self, asked: dict[str, Any]) -> None:
        repo = "/".join(filter(None, [asked.get("organization"), asked["name"]]))
        there = repo in self.hub.private
        self.hub.private.setdefault(repo, asked.get("visibility") == "private")
        self._answer({"url": f"{self.hub.address}/{repo}"}, 409 if there else 200)

    def _upload(self, one: dict[str, Any]) -> dict[str, Any]:
        return {**one, "actions": {"upload": {"href": f"{self.hub.address}/blobs/{one['oid']}"}}}

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.hub.files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                self.hub.files[value["path"]] = self.hub.blobs[value["oid"]]
        repo = self.path.removeprefix("/api/models/").partition("/commit/")[0]
        url = f"{self.hub.address}/{repo}/commit/{'a' * 40}"
        self._answer({"success": True, "commitOid": "a" * 40, "commitUrl": url})

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub, for as long as the block lasts."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
