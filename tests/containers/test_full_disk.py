"""Test a full disk of the server: one sentence reports it, committed rows are kept, and the next run continues."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import docker
import psycopg
import pytest

from cbirdb.db.schema.migrate import upgrade
from tests.conftest import Outcome
from tests.support.database_container import IMAGE, DatabaseContainer, database_container

if TYPE_CHECKING:
    from docker.models.containers import Container

DISK = "/var/lib/postgresql"
BALLAST = f"{DISK}/ballast"
FULL = "The server's disk is full: "
Cli = Callable[..., Outcome]


@dataclass(frozen=True)
class SmallDisk:
    """Hold a server, and a container that keeps its disk while the server is down."""

    server: DatabaseContainer
    keeper: Container

    def fill(self) -> None:
        """Write a file until no space is left."""
        code, output = self.keeper.exec_run(["dd", "if=/dev/zero", f"of={BALLAST}", "bs=4k"])
        assert code != 0
        assert b"No space left" in output

    def make_room(self) -> None:
        assert self.keeper.exec_run(["rm", BALLAST])[0] == 0

    def counts(self) -> dict[str, int]:
        """Count rows of the tables that the runs write."""
        found = {}
        with psycopg.connect(self.server.dsn("cbirdb")) as connection:
            for table in ("image", "image_label", "embedding_tiny_image", "index_build"):
                there = connection.execute("SELECT to_regclass(%s) IS NOT NULL", [f"cbir.{table}"]).fetchone()
                if there == (True,):
                    found[table] = connection.execute(f"SELECT count(*) FROM cbir.{table}").fetchone()[0]
        return found


@pytest.fixture(scope="module")
def disk() -> Iterator[str]:
    """Make a volume of 300 MB of memory, which is emptied when nobody has it mounted."""
    client = docker.from_env()
    volume = client.volumes.create(driver_opts={"type": "tmpfs", "device": "tmpfs", "o": "size=300m"})
    yield volume.name
    volume.remove()
    client.close()


@pytest.fixture
def small(disk: str) -> Iterator[SmallDisk]:
    """Start a server whose whole disk is that volume."""
    client = docker.from_env()
    keeper = client.containers.run(IMAGE, entrypoint=["sleep", "3600"], detach=True, volumes=[f"{disk}:{DISK}"])
    try:
        with database_container(
            "-c", "max_wal_size=64MB", "-c", "min_wal_size=32MB", volumes=[(disk, DISK, "rw")]
        ) as server:
            with psycopg.connect(server.dsn(), autocommit=True) as admin:
                admin.execute("CREATE DATABASE cbirdb")
            with psycopg.connect(server.dsn("cbirdb"), autocommit=True) as connection:
                upgrade(connection)
            yield SmallDisk(server, keeper)
    finally:
        keeper.remove(force=True)
        client.close()


@pytest.fixture
def small_cli(small: SmallDisk, cli: Cli) -> Cli:
    """Run ``cbirdb`` on that server."""
    return lambda *arguments: cli("-q", "--dsn", small.server.dsn("cbirdb"), *arguments)


def test_encode_and_index_build_report_a_full_disk_and_continue_once_there_is_room(
    small: SmallDisk, small_cli: Cli, pictures: Path
) -> None:
    assert small_cli("ingest", "folder", pictures).code == 0
    assert small_cli("encode", "-e", "tiny-image", "--limit", 20, "--batch-size", 5).code == 0
    before = small.counts()
    assert before == {"image": 60, "image_label": 60, "embedding_tiny_image": 20, "index_build": 0}
    small.fill()
    encoding = small_cli("encode", "-e", "tiny-image", "--batch-size", 5)
    building = small_cli("index", "build", "-e", "tiny-image")
    for outcome in (encoding, building):
        assert (outcome.code, outcome.out) == (3, "")
        assert outcome.err.startswith(f"Error: {FULL}")
        assert "Make room" in outcome.err
        assert len(outcome.err.splitlines()) == 1
    # A search that the audit cannot record is refused; what is not audited goes on.
    searched = small_cli("search", "--image-id", 1, "-e", "tiny-image", "-k", 5, "--format", "json")
    assert (searched.code, searched.out) == (3, "")
    assert searched.err.startswith(f"Error: {FULL}")
    with psycopg.connect(small.server.dsn("cbirdb"), autocommit=True) as connection:
        found = connection.execute(
            "SELECT n.* FROM cbir.embedding_tiny_image AS e,"
            " LATERAL cbir_internal.nearest_image('tiny-image', e.embedding::vector, k => 5) AS n WHERE e.image_id = 1"
        ).fetchall()
    assert len(found) == 5
    # Whole batches are there or not at all.
    after = small.counts()
    assert after["embedding_tiny_image"] >= 20
    assert after["embedding_tiny_image"] % 5 == 0
    assert {**after, "embedding_tiny_image": 20} == before
    small.make_room()
    done = small_cli("encode", "-e", "tiny-image", "--format", "json").rows[0]
    assert (done["encoded"], done["already_there"]) == (
        60 - after["embedding_tiny_image"],
        after["embedding_tiny_image"],
    )
    assert small_cli("index", "build", "-e", "tiny-image").code == 0
    assert small.counts() == {"image": 60, "image_label": 60, "embedding_tiny_image": 60, "index_build": 1}


def test_ingest_reports_a_full_disk_and_continues_once_there_is_room(
    small: SmallDisk, small_cli: Cli, pictures: Path
) -> None:
    assert small_cli("ingest", "folder", pictures, "--limit", 10).code == 0
    long = pictures.parent / "long"
    make_labels(long, pictures)
    small.fill()
    outcome = small_cli("ingest", "paper-csv", long)
    assert outcome.code == 3
    assert outcome.err.startswith(f"Error: {FULL}")
    small.make_room()
    assert small.counts()["image"] == 10 + whole_batches(small.server)
    assert small_cli("ingest", "folder", pictures).code == 0
    assert small_cli("ingest", "paper-csv", long).code == 0
    assert small.counts()["image"] == 60 + ROWS


ROWS = 20_000


def make_labels(folder: Path, pictures: Path) -> None:
    """Write a list of more images without files than fit on the free pages of the tables."""
    folder.mkdir(exist_ok=True)
    lines = ["filepath,dataset,split,modality,anatomic_region,XR/chest/normal"]
    lines += [f"nih14/{number:06}.png,nih14,train,XR,chest,1" for number in range(ROWS)]
    (folder / "nih14.csv").write_text("\n".join(lines) + "\n")


def whole_batches(server: DatabaseContainer) -> int:
    """Count the committed images of the list and check that they are whole batches of 5,000."""
    with psycopg.connect(server.dsn("cbirdb")) as connection:
        found = connection.execute("SELECT count(*) FROM cbir.image WHERE source LIKE 'nih14/%'").fetchone()[0]
    assert found % 5000 == 0
    return int(found)


def test_server_stopped_by_a_full_disk_loses_nothing(small: SmallDisk, small_cli: Cli, pictures: Path) -> None:
    """PostgreSQL stops when it cannot write its log of changes."""
    assert small_cli("ingest", "folder", pictures).code == 0
    assert small_cli("encode", "-e", "tiny-image", "--limit", 40).code == 0
    before = small.counts()
    small.fill()
    crash(small.server)
    outcome = small_cli("encode", "-e", "tiny-image")
    assert (outcome.code, outcome.out) == (3, "")
    assert outcome.err.startswith("Error: No server answers at ")
    assert "its log says why" in outcome.err
    assert "No space left on device" in small.server.log()
    small.make_room()
    small.server.container.start()
    small.server.wait()
    assert small.counts() == before
    assert small_cli("encode", "-e", "tiny-image").code == 0
    assert small.counts() == {**before, "embedding_tiny_image": 60}


def crash(server: DatabaseContainer) -> None:
    """Write until the server stops."""

    def write() -> None:
        with psycopg.connect(server.dsn("cbirdb"), autocommit=True) as connection:
            for _ in range(1000):
                connection.execute("SELECT pg_switch_wal()")
                connection.execute("UPDATE cbir.dataset SET root = root")

    with pytest.raises(psycopg.OperationalError):
        write()
    server.container.wait(timeout=60)
