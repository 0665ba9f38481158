"""Run ``make audit`` against a local server that answers as the advisory database does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from benchmarks.audit import FILES, ROOT, pins
from tests.support.database_container import free_port


@contextmanager
def database(affected: set[str], asked: list[dict[str, object]], *, answer: str | None = None) -> Iterator[str]:
    """Run a database with two advisories for each of these packages; yield its address. ``asked`` gets the queries."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            queries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
            asked.extend(queries)
            found = [
                {"vulns": [{"id": "GHSA-1"}, {"id": "PYSEC-2"}]} if query["package"]["name"] in affected else {}
                for query in queries
            ]
            self.send_response(200)
            self.end_headers()
            self.wfile.write((answer or json.dumps({"results": found})).encode())

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def audit(address: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "audit.py"], env={**os.environ, "CBIRDB_ADVISORIES": address},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_audit_asks_for_every_pinned_package_with_its_version() -> None:
    asked: list[dict[str, object]] = []
    with database(set(), asked) as address:
        done = audit(address)
    assert done.returncode == 0, done.stderr
    lines = [line for name in FILES for line in (ROOT / name).read_text().splitlines() if line.strip()]
    wanted = {tuple(line.split(";")[0].strip().split("==")) for line in lines}
    assert {(query["package"]["name"], query["version"]) for query in asked} == wanted  # type: ignore[index]
    assert done.stderr == f"{len(wanted)} pinned packages checked, 0 with advisories.\n"


def test_audit_names_a_package_with_advisories_and_exits_with_1() -> None:
    with database({"pydicom"}, []) as address:
        done = audit(address)
    version = dict(pins([ROOT / FILES[0]]))["pydicom"]
    assert (done.returncode, done.stdout) == (1, f"pydicom {version}: GHSA-1, PYSEC-2\n")


@pytest.mark.parametrize("answer", ["<html>", "[]", '{"results": []}', '{"error": 1}'])
def test_malformed_answer_is_reported_in_one_line(answer: str) -> None:
    with database(set(), [], answer=answer) as address:
        done = audit(address)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith(f"No package was checked: the advisory database at {address} does not answer (")
    assert len(done.stderr.splitlines()) == 1


def test_unreachable_database_is_reported_in_one_line() -> None:
    done = audit(f"http://127.0.0.1:{free_port()}")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("No package was checked: ")
    assert len(done.stderr.splitlines()) == 1


def test_lock_file_line_without_a_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    path.write_text("numpy>=2\n")
    with pytest.raises(ValueError, match="pins no version: numpy>=2"):
        pins([path])
