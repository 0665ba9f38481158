"""Run as much of a model hub as a download needs, and record every use of the network."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class FakeHub:
    """Repositories by name, and plain files by path. Tests change them while the hub runs."""

    endpoint: str
    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    """Repository -> commit -> file -> content; the last commit is the branch ``main``."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Path -> content, as of any other web server."""
    refusals: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    """Part of a path -> status and headers instead of an answer."""
    cuts: dict[str, list[int]] = field(default_factory=dict)
    """End of a path -> number of bytes after which each of the next answers breaks off."""
    pauses: dict[str, float] = field(default_factory=dict)
    """End of a path -> seconds before each tenth of the content."""
    gives_ranges: bool = True
    """False: every answer is the whole file."""
    requests: list[str] = field(default_factory=list)
    """``GET /path`` of every request."""
    headers: list[dict[str, str]] = field(default_factory=list)
    """The headers of every request."""

    def downloads(self) -> list[str]:
        """Return the names of the files whose content was requested."""
        return [
            request.rsplit("/", 1)[1]
            for request in self.requests
            if request.startswith("GET /") and "/api/" not in request
        ]

    def answer(self, path: str) -> Answer:
        for part, (status, headers) in self.refusals.items():
            if part in path:
                return status, headers, b"{}"
        if path.lstrip("/") in self.files:
            return 200, {}, self.files[path.lstrip("/")]
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) in {4, 6}:
            what, revision = parts[4:] or ("revision", "main")
            return self._about("/".join(parts[2:4]), what, revision)
        if len(parts) >= 5 and parts[2] == "resolve":
            commit, files = self._at("/".join(parts[:2]), parts[3])
            content = (files or {}).get("/".join(parts[4:]))
            if commit is not None and content is not None:
                etag = hashlib.sha256(content).hexdigest()
                return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": commit}, content
            return 404, {"X-Error-Code": "EntryNotFound"}, b"{}"
        return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"

    def _about(self, repository: str, what: str, revision: str) -> Answer:
        if repository not in self.repositories:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        commit, files = self._at(repository, revision)
        if files is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        if what == "tree":
            body: object = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in files.items()
            ]
        else:
            body = {
                "id": repository,
                "sha": commit,
                "siblings": [{"rfilename": name, "size": len(files[name])} for name in files],
            }
        return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()

    def _at(self, repository: str, revision: str) -> tuple[str | None, dict[str, bytes] | None]:
        commits = self.repositories.get(repository, {})
        commit = list(commits)[-1] if revision == "main" and commits else revision
        return (commit, commits[commit]) if commit in commits else (None, None)


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_GET(self) -> None:
        self._send()

    def do_HEAD(self) -> None:
        self._send()

    def log_message(self, *args: object) -> None:
        pass

    def _send(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        self.hub.headers.append(dict(self.headers))
        status, headers, body = self.hub.answer(path)
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        if not self.hub.gives_ranges:
            start = 0
        if start >= len(body) > 0 and status == 200:
            status, headers, start = 416, {"Content-Range": f"bytes */{len(body)}"}, len(body)
        elif start and status == 200:
            status, headers = 206, {**headers, "Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body) - start), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            cut = next((cuts for end, cuts in self.hub.cuts.items() if path.endswith(end) and cuts), None)
            pause = next((seconds for end, seconds in self.hub.pauses.items() if path.endswith(end)), 0.0)
            content = body[start : start + cut.pop(0)] if cut else body[start:]
            part = len(content) // 10 + 1 if pause else max(1, len(content))
            for first in range(0, len(content), part):
                time.sleep(pause)
                self.wfile.write(content[first : first + part])


@contextmanager
def fake_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Run a hub that huggingface_hub asks instead of its own."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {}))
    hub = server.RequestHandlerClass.hub = FakeHub(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class NetworkUsedError(AssertionError):
    """A test that forbids the network met a request for it."""


@contextmanager
def no_network() -> Iterator[list[str]]:
    """Refuse every name and address; yield the list of requests, which also holds those whose error was caught."""
    asked: list[str] = []

    def connect(_socket: socket.socket, address: object) -> None:
        asked.append(f"connection to {address}")
        raise NetworkUsedError(asked[-1])

    def look_up(host: object, *_: object, **__: object) -> None:
        asked.append(f"address of {host!r}")
        raise NetworkUsedError(asked[-1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect)
        patch.setattr(socket.socket, "connect_ex", connect)
        patch.setattr(socket, "getaddrinfo", look_up)
        yield asked
