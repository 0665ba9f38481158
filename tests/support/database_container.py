"""Servers of the image that is deployed, for tests: started by testcontainers, gone with the block that started them."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

if TYPE_CHECKING:
    from docker.models.containers import Container

IMAGE = "pgvector/pgvector:pg18"
"""As ``docker/compose.yaml`` has it, which a test compares."""
PASSWORD = "kein-Geheimnis-6"
PATIENCE_S = 90
ROOT = Path(__file__).resolve().parents[2]


def require_engine() -> None:
    """Skip the test where no container engine answers; in CI that is a failure."""
    import docker

    try:
        docker.from_env(timeout=20).ping()
    except docker.errors.DockerException as error:
        sentence = f"no container engine answers here: {str(error).splitlines()[0][:200]}"
        if os.environ.get("CI"):
            pytest.fail(f"{sentence}; in CI these tests have to run", pytrace=False)
        pytest.skip(sentence)


@dataclass(frozen=True)
class DatabaseContainer:
    """A running server."""

    container: Container
    port: int

    def dsn(self, dbname: str = "postgres", **parts: str) -> str:
        """Return a DSN over TCP, of the superuser unless another is named."""
        return make_conninfo(
            "", **{"host": "127.0.0.1", "port": str(self.port), "user": "postgres", "password": PASSWORD,
                   "dbname": dbname} | parts
        )  # fmt: skip

    def run(self, *command: str, user: str = "root") -> str:
        """Return the output of a program inside the container; it must end well."""
        code, output = self.container.exec_run(list(command), user=user)
        text = output.decode(errors="replace")
        assert code == 0, f"{command}: {text}"
        return text

    def log(self) -> str:
        """All that the server has written so far."""
        return self.container.logs().decode(errors="replace")

    def restart(self, *, wait: bool = True) -> None:
        """Stop and start it, as `docker restart` does."""
        self.container.restart(timeout=60)
        if wait:
            self.wait()

    def wait(self, **parts: str) -> None:
        """Return when it lets a connection in."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                psycopg.connect(self.dsn(**parts), connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                self.container.reload()
                assert self.container.status != "exited", self.log()
                assert time.monotonic() < deadline, self.log()
                time.sleep(0.1)


@contextmanager
def database_container(
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    volumes: Sequence[tuple[Path | str, str, str]] = (),
    wait_as: Mapping[str, str] | None = None,
    **more: Any,
) -> Iterator[DatabaseContainer]:
    """A server of the deployed image.

    :param arguments: further arguments of ``postgres``.
    :param volumes: host path or name of a volume, path in the container, ``ro`` or ``rw``.
    :param wait_as: parts of the connection string that it is waited for with.
    :param more: what docker's ``create`` takes, such as ``tmpfs``.
    """
    from testcontainers.core.container import DockerContainer

    # A port of its own choice would be another one after each restart.
    port = free_port()
    tmpfs = more.pop("tmpfs", {})
    wanted = DockerContainer(IMAGE, volumes=[(str(host), inside, mode) for host, inside, mode in volumes], **more)
    wanted.ports["5432/tcp"] = ("127.0.0.1", port)  # type: ignore[assignment] # as docker takes it: loopback alone
    wanted.with_envs(**{"POSTGRES_PASSWORD": PASSWORD, **(environment or {})})
    wanted.with_command(["postgres", *arguments])
    for path, size in tmpfs.items():
        wanted.with_tmpfs_mount(path, size)
    with wanted as started:
        server = DatabaseContainer(started.get_wrapped_container(), port)
        server.wait(**(wait_as or {}))
        yield server


@contextmanager
def trusting_container(*rules_before: str) -> Iterator[DatabaseContainer]:
    """A server that asks nobody for a password, as the embedded one: for the suite that is written for that one.

    :param rules_before: further lines of pg_hba.conf.
    """
    with tempfile.TemporaryDirectory(prefix="cbirdb-rules-") as folder:
        rules = Path(folder) / "pg_hba.conf"
        rules.write_text("\n".join([*rules_before, "local all all trust", "host all all all trust", ""]))
        rules.chmod(0o644)
        inside = "/etc/cbirdb-tests/pg_hba.conf"
        # fsync is off: nothing of it has to be left after the machine fails.
        with database_container(
            "-c", f"hba_file={inside}", "-c", "fsync=off", volumes=[(rules, inside, "ro")], shm_size="512m"
        ) as server:
            yield server


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
