"""Test two ingests of the same folder at once, as two processes, on a server in a container."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psycopg

PROGRAM = Path(sys.executable).with_name("cbirdb")


def start(dsn: str, *arguments: object) -> subprocess.Popen[str]:
    """Start ``cbirdb`` as a process."""
    return subprocess.Popen(
        [PROGRAM, "-q", *map(str, arguments), "--format", "json"],
        env={**os.environ, "CBIRDB_DSN": dsn}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> dict[str, int]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return json.loads(out)[-1]


def test_two_ingests_at_once_store_each_image_and_label_once(own_dsn: str, pictures: Path) -> None:
    rows = [finish(process) for process in [start(own_dsn, "ingest", "folder", pictures) for _ in range(2)]]
    assert sum(row["added"] for row in rows) == 60
    assert [row["added"] + row["unchanged"] for row in rows] == [60, 60]
    assert [row["failed"] for row in rows] == [0, 0]
    with psycopg.connect(own_dsn) as connection:
        found = connection.execute(
            "SELECT (SELECT count(*) FROM cbir.image), (SELECT count(DISTINCT source) FROM cbir.image),"
            " (SELECT count(*) FROM cbir.image_label), (SELECT count(*) FROM cbir.label),"
            " (SELECT count(*) FROM cbir.dataset)"
        ).fetchone()
    assert found == (60, 60, 60, 2, 1)
    rows = [finish(process) for process in [start(own_dsn, "encode", "-e", "tiny-image") for _ in range(2)]]
    assert sum(row["encoded"] for row in rows) == 60
