"""Run docs/operations.md as written: every command of its console blocks, in order, on a copy of what a clone holds.

It begins with `docker compose up` and `docker compose run cbirdb demo` on a machine where nothing was prepared.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.compose_project import Run, clone_into, compose_project
from tests.support.database_container import IMAGE, ROOT

GUIDE = ROOT / "docs" / "operations.md"
WITHOUT_ROWS = {"cbir.failure_by_reason", "cbir.running_work"}
"""Views that are empty where nothing has failed and nobody is at work."""


def commands() -> list[str]:
    """Return the lines that begin with ``$`` in console blocks, indented or not."""
    blocks = re.findall(r"^( *)```console\n(.*?)^\1```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    return [line.strip()[2:] for _, block in blocks for line in block.splitlines() if line.strip().startswith("$ ")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Run a command of the guide."""
    with compose_project(clone_into(tmp_path_factory.mktemp("clone") / "cbirdb")) as call:
        yield call


def test_compose_file_names_the_image_that_the_tests_run_on() -> None:
    services = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]
    assert services["db"]["image"] == f"${{CBIRDB_DATABASE_IMAGE:-{IMAGE}}}"
    assert services["db"]["ports"] == ["${CBIRDB_ADDRESS:-127.0.0.1}:${CBIRDB_PORT:-15432}:5432"]


def test_every_command_of_the_operations_guide_runs_as_written(
    run: Run, record_property: Callable[[str, object], None]
) -> None:
    said: list[tuple[str, str, float]] = []
    written = commands()
    assert written[:2] == ["docker compose up -d", "docker compose run --rm cbirdb demo"]
    for command in written:
        started = time.monotonic()
        done = run(command)
        assert done.returncode == 0, f"$ {command}\n{done.stdout}\n{done.stderr}"
        said.append((command, done.stdout, time.monotonic() - started))
        for view in re.findall(r"FROM (cbir\.\w+)", command):
            assert view in WITHOUT_ROWS or "(0 rows)" not in done.stdout, command
    transcript = "\n".join(f"$ {command}   [{seconds:.0f} s]\n{output}" for command, output, seconds in said)
    record_property("transcript", transcript)
    if file := os.environ.get("TRANSCRIPT"):
        Path(file).write_text(transcript)
    outputs = {command: output for command, output, _ in said}
    demo = outputs["docker compose run --rm cbirdb demo"]
    assert "Precision at N" in demo
    assert "psql" in demo
    doctors = [output for command, output in outputs.items() if command.endswith("db doctor")]
    assert len(doctors) == 2
    assert not [output for output in doctors if "FAILED" in output]
    # The dataset was dropped, and is there again: the database stands at the moment before the mistake.
    status = outputs["docker compose run --rm cbirdb db status"]
    assert re.search(r"dataset\s+phantoms\s", status)
