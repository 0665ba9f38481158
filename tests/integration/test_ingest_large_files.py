"""Test files and pictures above the limits: each becomes a failure, and the run continues."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from PIL import Image

from cbirdb.limits import LARGEST_FILE
from tests.conftest import Outcome

Cli = Callable[..., Outcome]


def failures(connection: psycopg.Connection) -> list[tuple[str, str, str]]:
    return connection.execute("SELECT stage, source, reason FROM cbir.failure WHERE NOT resolved").fetchall()


@pytest.mark.parametrize("size", [LARGEST_FILE + 1, 1 << 40])
def test_huge_file_fails_and_the_others_are_ingested(
    cli: Cli, connection: psycopg.Connection, class_folder: Path, size: int
) -> None:
    huge = class_folder / "nodule" / "huge.png"
    huge.touch()
    os.truncate(huge, size)  # takes no room
    outcome = cli("ingest", "folder", class_folder, "--format", "json")
    assert (outcome.code, outcome.rows[-1]["added"], outcome.rows[-1]["failed"]) == (4, 20, 1)
    assert f"{size:,} bytes, more than" in outcome.err
    assert failures(connection) == [("ingest", "nodule/huge.png", "too large")]


def test_file_that_exceeds_memory_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.touch()
    os.truncate(path, 1 << 30)
    code = (
        "import resource, sys; from pathlib import Path; from cbirdb.ingest.inspect_files import look\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 28),) * 2)\n"
        "found = look(Path(sys.argv[1])); print(found.reason)"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (0, "too large\n"), ran.stderr


def test_max_pixels_lets_ingest_and_encode_read_a_larger_picture(
    cli: Cli, connection: psycopg.Connection, class_folder: Path
) -> None:
    path = class_folder / "nodule" / "large.png"
    large = Image.new("L", (11_000, 10_000), 9)
    large.paste(90, (0, 0, 5_000, 5_000))
    large.save(path, compress_level=1)
    assert cli("ingest", "folder", class_folder).code == 4
    assert failures(connection) == [("ingest", "nodule/large.png", "too large")]
    allowed = ("--max-pixels", 110_000_000)
    assert cli("ingest", "folder", class_folder, *allowed).code == 0
    assert failures(connection) == []
    assert cli("encode", "-e", "tiny-image").code == 4
    assert failures(connection) == [("encode", "nodule/large.png", "too large")]
    outcome = cli("encode", "-e", "tiny-image", *allowed, "--format", "json")
    assert (outcome.code, outcome.rows[0]["encoded"]) == (0, 1)
    assert failures(connection) == []
