"""Test a read replica: a second container that follows the first by streaming, is searched and refuses writes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests.conftest import Outcome
from tests.support.database_container import PASSWORD, DatabaseContainer, database_container, trusting_container

Cli = Callable[..., Outcome]


@pytest.fixture(scope="module")
def primary() -> Iterator[DatabaseContainer]:
    """Start a server that lets a replica follow it."""
    with trusting_container("host replication all all trust") as server:
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute("CREATE DATABASE cbirdb")
        yield server


@pytest.fixture(scope="module")
def replica(primary: DatabaseContainer) -> Iterator[DatabaseContainer]:
    """Start a copy that follows the primary."""
    primary.container.reload()
    address = primary.container.attrs["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    copy = f"pg_basebackup -h {address} -U postgres -D $PGDATA -R --checkpoint=fast && chown -R postgres /var/lib/postgresql"
    with database_container(
        environment={"PGPASSWORD": PASSWORD},
        entrypoint=["/bin/bash", "-ec", f'{copy} && chmod 700 $PGDATA && exec docker-entrypoint.sh postgres "$@"'],
    ) as server:
        yield server


def catch_up(primary: DatabaseContainer, replica: DatabaseContainer) -> None:
    """Wait until the replica has all that the primary has now."""
    with psycopg.connect(primary.dsn()) as connection:
        position = connection.execute("SELECT pg_current_wal_insert_lsn()").fetchone()[0]
    deadline = time.monotonic() + 60
    with psycopg.connect(replica.dsn(), autocommit=True) as connection:
        while connection.execute("SELECT pg_last_wal_replay_lsn() >= %s", [position]).fetchone() != (True,):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_replica_answers_searches_and_metrics_and_refuses_writes(
    primary: DatabaseContainer, replica: DatabaseContainer, cli: Cli, class_folder: Path
) -> None:
    dsn, copy = primary.dsn("cbirdb"), replica.dsn("cbirdb")
    for command in (
        ["db", "upgrade"],
        ["ingest", "folder", class_folder, "--split", "50/0/50"],
        ["encode", "-e", "tiny-image"],
        ["index", "build", "-e", "tiny-image"],
        ["evaluate", "-e", "tiny-image"],
    ):
        outcome = cli("-q", "--dsn", dsn, *command)
        assert outcome.code == 0, outcome.err
    catch_up(primary, replica)
    audited = cli("-q", "--dsn", copy, "search", "--image-id", 1, "-e", "tiny-image")
    assert (audited.code, audited.out) == (3, "")
    assert "audit" in audited.err
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE cbir.setting SET enabled = FALSE WHERE name = 'audit'")
    catch_up(primary, replica)
    for command in (
        ["search", "--image-id", 1, "-e", "tiny-image", "-k", 5, "--label", "nodule"],
        ["search", "--image-id", 1, "-e", "tiny-image", "-k", 5],
        ["metrics", "-e", "tiny-image"],
    ):
        here, there = (cli("-q", "--dsn", server, *command, "--format", "json") for server in (copy, dsn))
        assert (here.code, here.rows) == (0, there.rows), here.err
    with psycopg.connect(copy) as connection:
        assert connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)
        for mode in ("exact", "approximate"):
            found = connection.execute(
                "SELECT mode FROM cbir.similar_images('tiny-image', image_id => 1, k => 3, mode => %s)", [mode]
            ).fetchall()
            assert found == [(mode,)] * 3
    refused = cli("-q", "--dsn", copy, "evaluate", "-e", "tiny-image")
    assert refused.code == 3
    assert "read-only transaction" in refused.err
    assert len(refused.err.splitlines()) == 1
