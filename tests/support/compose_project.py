"""docker/compose.yaml as a project of a test's own: its name, port, volumes and image are nobody else's."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.database_container import ROOT, free_port

Done = subprocess.CompletedProcess[str]
Run = Callable[[str], Done]

# Where Compose 2 is not installed, docker-compose stands in for it.
SHELL = """
set -euo pipefail
docker() {
  if [ "$1" = compose ] && ! command docker compose version >/dev/null 2>&1; then
    shift
    docker-compose "$@"
  else
    command docker "$@"
  fi
}
"""


def clone_into(folder: Path) -> Path:
    """Copy the files that git has, and nothing that was built or made beside them."""
    files = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, files.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


@contextmanager
def compose_project(clone: Path, settings: Mapping[str, str] | None = None) -> Iterator[Run]:
    """Runs commands in the clone's folder ``docker``; what they started and stored goes with the block."""
    name = f"cbirdb-test-{uuid.uuid4().hex[:8]}"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("CBIRDB_", "COMPOSE_", "PG"))}
    environment |= {"COMPOSE_PROJECT_NAME": name, "CBIRDB_PORT": str(free_port()), "CBIRDB_IMAGE": f"{name}:local"}
    # Two gigabytes for an index of some hundred pictures would only take them from other tests.
    environment |= {"CBIRDB_SHARED_BUFFERS": "128MB", "CBIRDB_MAINTENANCE_WORK_MEM": "128MB", "CBIRDB_SHM_SIZE": "256m"}
    environment |= settings or {}

    def call(command: str) -> Done:
        return subprocess.run(
            ["bash", "-c", SHELL + command], cwd=clone / "docker", env=environment, capture_output=True, text=True,
            stdin=subprocess.DEVNULL, timeout=400,
        )  # fmt: skip

    try:
        yield call
    finally:
        call("docker compose --profile tools down -v --remove-orphans")
        call(f"docker image rm {name}:local")


def must(done: Done) -> str:
    """Return the output of a command that has to end well."""
    assert done.returncode == 0, f"{done.args[-1][len(SHELL) :]}\n{done.stdout}\n{done.stderr}"
    return done.stdout
