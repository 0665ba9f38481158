"""Restore a `pg_dump` of the embedded server into the deployed one, which has the same or a newer minor version.

Which versions those are, the wheel and the image decide; the test fails where the image is the older one.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cbirdb.db.schema import migrate
from cbirdb.db.server.embedded import EmbeddedServer
from tests.conftest import Outcome
from tests.support.database_container import DatabaseContainer

Cli = Callable[..., Outcome]


@pytest.fixture
def embedded() -> Iterator[EmbeddedServer]:
    """Start an embedded server for this test."""
    home = Path(tempfile.mkdtemp(prefix="cbirdb-server-"))  # not below pytest's folder, see tests/conftest.py
    server = EmbeddedServer(home)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(home)


def rounded(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Round the figures: sums depend on the order of rows, so the last digits may differ."""
    return [
        {key: round(value, 12) if isinstance(value, float) else value for key, value in row.items()} for row in rows
    ]


def put(database: DatabaseContainer, file: Path) -> str:
    """Copy a file into the container; return its path there."""
    import io
    import tarfile

    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(file, arcname=file.name)
    assert database.container.put_archive("/tmp", packed.getvalue())
    return f"/tmp/{file.name}"


def test_dump_restored_into_the_deployed_version_answers_the_same(
    embedded: EmbeddedServer, database: DatabaseContainer, cli: Cli, class_folder: Path, tmp_path: Path
) -> None:
    old = embedded.uri()
    for command in (
        ["db", "upgrade"],
        ["ingest", "folder", class_folder, "--split", "50/0/50"],
        ["encode", "-e", "tiny-image"],
        ["index", "build", "-e", "tiny-image", "--method", "hnsw"],
        ["evaluate", "-e", "tiny-image"],
    ):
        outcome = cli("-q", "--dsn", old, *command)
        assert outcome.code == 0, outcome.err
    dump = tmp_path / "cbirdb.dump"
    subprocess.run(
        [embedded.psql().with_name("pg_dump"), "--format=custom", "--no-owner", f"--file={dump}", old],
        check=True, timeout=120,
    )  # fmt: skip
    database.run("createdb", "-U", "postgres", "restored")
    database.run("pg_restore", "-U", "postgres", "-d", "restored", "--no-owner", "--exit-on-error", put(database, dump))
    new = database.dsn("restored")
    with psycopg.connect(old) as before, psycopg.connect(new) as after:
        assert after.info.server_version >= before.info.server_version
        assert after.info.server_version // 10000 == before.info.server_version // 10000
        assert migrate.current_state(after) == migrate.installed_state()
        for table in ("image", "image_label", "embedding_tiny_image", "search_result", "index_build", "failure"):
            query = f"SELECT count(*), md5(string_agg(t::text, ' ' ORDER BY t::text)) FROM cbir.{table} AS t"
            assert after.execute(query).fetchone() == before.execute(query).fetchone(), table
        built = "SELECT count(*) FROM pg_indexes WHERE schemaname = 'cbir' AND indexdef LIKE '%hnsw%'"
        assert after.execute(built).fetchone() == (1,)
    for command in (
        ("search", "--image-id", 1, "-e", "tiny-image", "-k", 5, "--format", "json"),
        ("metrics", "-e", "tiny-image", "--format", "json"),
        ("metrics", "-e", "tiny-image", "--by", "class", "--format", "json"),
    ):
        there, here = cli("-q", "--dsn", old, *command), cli("-q", "--dsn", new, *command)
        assert here.code == 0
        assert rounded(here.rows) == rounded(there.rows)
    assert {row["result"] for row in cli("--dsn", new, "db", "doctor", "--format", "json").rows} == {"ok"}
