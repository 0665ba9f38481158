"""Test the schema in the deployed server: made from nothing, and upgraded from earlier versions of cbirdb.

There is no release yet. In its place stand commits of main: their own code, taken from the history, makes the database
and fills it, and the code of this checkout upgrades it.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from cbirdb.db.schema import migrate
from tests.conftest import Outcome
from tests.support.database_container import ROOT, DatabaseContainer
from tests.support.dicom_archive import archive

LANDED = {
    "0001": "b1cf76ba843ad14c73974ecc8c83c41c1edb78ef",
    "0002": "b4f2d2d55318caccfb790d0f71189e8a1fcc40e6",
    "0003": "85c4d4acdbb3713d8e7fdb9923c95d71607e7ae4",
    "0005": "a12eb3ffc8fd7cd2e3139f546074fab24190992d",
    "0008": "c3a763a9e71e04e72407bb6e88ab17329c36927d",
    "0009": "02dbe4eeca308b760b6d3e8c633044aa344655f6",
}
"""By the migration that they end with: commits of main."""
Cli = Callable[..., Outcome]


def test_upgrade_makes_the_schema_and_a_second_one_changes_nothing(database: DatabaseContainer, cli: Cli) -> None:
    with psycopg.connect(database.dsn(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE nothing")
    dsn = database.dsn("nothing")
    assert cli("--dsn", dsn, "db", "upgrade").err == f"Schema 'cbir' is at migration {migrate.head_revision()}.\n"
    with psycopg.connect(dsn) as connection:
        before = objects(connection)
    again = cli("--dsn", dsn, "db", "upgrade", "--if-needed")
    assert again.err == f"Schema 'cbir' is at migration {migrate.head_revision()}, as before.\n"
    with psycopg.connect(dsn) as connection:
        assert objects(connection) == before, "it made the views anew"
        assert migrate.current_state(connection) == migrate.installed_state()


def objects(connection: psycopg.Connection) -> list[tuple[int, str]]:
    """List objects with their ids, which change when a view is made anew."""
    return connection.execute(
        "SELECT oid::int, relname FROM pg_class WHERE relnamespace = 'cbir'::regnamespace ORDER BY oid"
    ).fetchall()


def earlier_version(commit: str, folder: Path) -> Callable[..., str]:
    """Return a function that runs ``cbirdb`` as of a commit with this environment's libraries."""
    done = subprocess.run(
        ["git", "-C", ROOT, "archive", commit, "cbirdb", "sql", "alembic"], capture_output=True, check=False
    )
    assert done.returncode == 0, f"the history of this clone has no commit {commit}: {done.stderr.decode()}"
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tree:
        tree.extractall(folder, filter="data")
    start = "from cbirdb.cli.main import main; main()"

    def call(*arguments: object) -> str:
        ran = subprocess.run(
            [sys.executable, "-c", start, *map(str, arguments)],
            cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    where = subprocess.run(
        [sys.executable, "-c", "import cbirdb; print(cbirdb.__file__)"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True,
    )  # fmt: skip
    assert where.stdout.startswith(str(folder)), "the checkout would have been tested against itself"
    return call


@pytest.mark.parametrize("revision", sorted(LANDED))
def test_database_of_an_earlier_version_is_upgraded_with_all_its_data(
    database: DatabaseContainer, cli: Cli, class_folder: Path, tmp_path: Path, revision: str
) -> None:
    with psycopg.connect(database.dsn(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE of_{revision}")
    dsn = database.dsn(f"of_{revision}")
    old = earlier_version(LANDED[revision], tmp_path / "old")
    old("--dsn", dsn, "db", "upgrade")
    with psycopg.connect(dsn) as connection:
        assert migrate.current_revision(connection) == revision
    old("-q", "--dsn", dsn, "ingest", "folder", class_folder, "--split", "50/0/50")
    old("-q", "--dsn", dsn, "encode", "-e", "tiny-image")
    old("-q", "--dsn", dsn, "index", "build", "-e", "tiny-image")
    old("-q", "--dsn", dsn, "evaluate", "-e", "tiny-image")
    metrics = json.loads(old("-q", "--dsn", dsn, "metrics", "-e", "tiny-image", "--format", "json"))
    search = ("search", "--image-id", 1, "-e", "tiny-image", "-k", 5, "--format", "json")
    found = json.loads(old("-q", "--dsn", dsn, *search))
    refused = cli("-q", "--dsn", dsn, *search)
    if "another version" in refused.err:  # else nothing of the schema has changed since
        assert refused.code == 3
        assert "cbirdb db upgrade" in refused.err
    upgraded = cli("--dsn", dsn, "db", "upgrade", "--if-needed")
    assert upgraded.code == 0, upgraded.err
    with psycopg.connect(dsn) as connection:
        assert migrate.current_state(connection) == migrate.installed_state()
    again = cli("-q", "--dsn", dsn, *search).rows
    assert [(row["image_id"], row["distance"]) for row in again] == [
        (row["image_id"], row["distance"]) for row in found
    ]
    now = cli("-q", "--dsn", dsn, "metrics", "-e", "tiny-image", "--format", "json").rows
    figures = ("n", "micro_precision", "macro_precision")
    # Versions add up in another order.
    assert [[row[name] for name in figures] for row in now] == [
        pytest.approx([row[name] for name in figures], rel=1e-12) for row in metrics
    ]
    row = cli("-q", "--dsn", dsn, "ingest", "folder", class_folder, "--split", "50/0/50", "--format", "json").rows[-1]
    assert (row["added"], row["unchanged"]) == (0, 20)
    assert cli("-q", "--dsn", dsn, "encode", "-e", "tiny-image", "--format", "json").rows[0]["encoded"] == 0
    # A table of rasters goes on with DICOM: its preprocessing stays, and the rendering is noted now.
    assert cli("-q", "--dsn", dsn, "ingest", "dicom", archive(tmp_path / "dicom")).code == 0
    assert cli("-q", "--dsn", dsn, "encode", "-e", "tiny-image", "--format", "json").rows[0]["encoded"] == 11
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT rendering_sha256 IS NOT NULL FROM cbir.encoder").fetchall() == [(True,)]
