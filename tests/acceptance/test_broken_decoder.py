"""Run the commands on untrusted files: pictures that crash or hang Pillow, and Python programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from PIL.PngImagePlugin import PngInfo

from tests.conftest import picture

PROGRAM = Path(sys.executable).with_name("cbirdb")
BREAKS = '''
"""Python runs this at its start, in the workers, too: pictures of some names in their text chunk break the decoder."""
import ctypes, resource, time
import cbirdb.limits
from PIL.PngImagePlugin import PngImageFile

cbirdb.limits.IMAGE_TIMEOUT_S = 2.0  # ingest has no option for it
load = PngImageFile.load

def broken(self):
    deed = self.info.get("deed")
    if deed == "crash":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        ctypes.string_at(0)
    if deed == "hang":
        time.sleep(600)
    return load(self)

PngImageFile.load = broken
'''


@dataclass(frozen=True)
class Ended:
    code: int
    row: dict[str, Any]
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(dsn: str, tmp_path: Path) -> Run:
    """Run ``cbirdb`` as a process of its own, with a broken decoder or the real one."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sitecustomize.py").write_text(BREAKS)

    def call(*arguments: object, broken: bool = False, cwd: Path | None = None) -> Ended:
        environment = {**os.environ, "CBIRDB_DSN": dsn}
        if broken:
            path = [str(tmp_path / "broken"), *filter(None, [os.environ.get("PYTHONPATH")])]
            environment["PYTHONPATH"] = os.pathsep.join(path)
        command = [PROGRAM, *map(str, arguments), "--format", "json"]
        done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=120)
        assert done.stdout, done.stderr
        return Ended(done.returncode, json.loads(done.stdout)[0], done.stderr)

    return call


def failures(connection: psycopg.Connection, stage: str) -> list[tuple[str, str, str]]:
    return connection.execute(
        "SELECT source, reason, detail FROM cbir.failure WHERE stage = %s AND NOT resolved ORDER BY source", [stage]
    ).fetchall()


BOTH = [
    ("nodule/05 crash.png", "crashed the decoder", "the process that read it ended (signal 11, Segmentation fault)"),
    ("nodule/05 hang.png", "timed out", "it took longer than 2 seconds"),
]


@pytest.mark.slow
def test_pictures_that_break_the_decoder_are_reported_and_all_others_are_processed(
    run: Run, connection: psycopg.Connection, class_folder: Path
) -> None:
    for number, deed in enumerate(("crash", "hang")):
        text = PngInfo()
        text.add_text("deed", deed)
        picture(100 + number).save(class_folder / "nodule" / f"05 {deed}.png", pnginfo=text)
    ended = run("ingest", "folder", class_folder, broken=True)
    assert (ended.code, ended.row["added"], ended.row["failed"]) == (4, 20, 2), ended.err
    assert failures(connection, "ingest") == BOTH
    ended = run("ingest", "folder", class_folder)
    assert (ended.code, ended.row["added"], ended.row["unchanged"]) == (0, 2, 20)
    assert failures(connection, "ingest") == []

    ended = run("encode", "-e", "tiny-image", "--image-timeout", 2, broken=True)
    assert (ended.code, ended.row["encoded"], ended.row["failed"]) == (4, 20, 2), ended.err
    assert "2 could not be encoded by tiny-image (1 crashed the decoder, 1 timed out)" in ended.err
    assert "Traceback" not in ended.err
    assert failures(connection, "encode") == BOTH
    ended = run("encode", "-e", "tiny-image")
    assert (ended.code, ended.row["encoded"], ended.row["already_there"]) == (0, 2, 20)
    assert failures(connection, "encode") == []


def test_python_files_beside_the_images_are_not_run(run: Run, class_folder: Path, tmp_path: Path) -> None:
    traces = tmp_path / "traces"
    traces.mkdir()
    for name in ("numpy", "PIL", "psycopg", "multiprocessing", "signal", "struct", "selectors", "sitecustomize"):
        program = f"open({str(traces / name)!r}, 'w').close()\nraise ImportError"
        (class_folder / f"{name}.py").write_text(program)
    ended = run("ingest", "folder", ".", "--name", "images", cwd=class_folder)
    assert ended.row["added"] == 20, ended.err
    assert run("encode", "-e", "tiny-image", cwd=class_folder).row["encoded"] == 20
    assert list(traces.iterdir()) == []
