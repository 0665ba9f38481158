"""Test ``cbirdb db doctor`` on unsuitable servers, and ``cbirdb datasets drop``."""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from cbirdb.db import doctor as doctor_module
from cbirdb.db.extension import extension_version, version_tuple
from cbirdb.db.schema import migrate
from tests.conftest import Outcome, picture_bytes

Cli = Callable[..., Outcome]
CHECKS = [
    "PostgreSQL version", "pgvector version", "Schema cbir", "Tables and columns", "Access control", "Privileges",
    "Memory settings", "Nearest-neighbour query", "Erased patients", "Vector indexes",
]  # fmt: skip


def check_rows(outcome: Outcome) -> dict[str, dict[str, str]]:
    return {row["check"]: row for row in outcome.rows}


def failed(outcome: Outcome) -> list[str]:
    return [row["check"] for row in outcome.rows if row["result"] != "ok"]


def doctor(cli: Cli, *before: object) -> Outcome:
    return cli(*before, "db", "doctor", "--format", "json")


def test_good_server_passes_every_check(cli: Cli) -> None:
    outcome = doctor(cli)
    assert outcome.code == 0
    assert [row["check"] for row in outcome.rows] == CHECKS
    assert failed(outcome) == []


def move_bound(monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> None:
    """Raise a minimum version above that of the real server."""
    monkeypatch.setattr(migrate, name, value)
    monkeypatch.setattr(doctor_module, name, value)


def test_doctor_fails_on_an_old_pgvector(
    cli: Cli, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    move_bound(monkeypatch, "MINIMUM_PGVECTOR", (99, 0, 0))
    outcome = doctor(cli)
    assert outcome.code == 4
    assert failed(outcome) == ["pgvector version"]
    row = check_rows(outcome)["pgvector version"]
    assert row["result"] == "FAILED"
    assert row["detail"] == extension_version(connection)
    assert "99.0.0" in row["advice"]


def test_db_upgrade_refuses_an_old_pgvector(
    cli: Cli, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    move_bound(monkeypatch, "MINIMUM_PGVECTOR", (99, 0, 0))
    outcome = cli("db", "upgrade")
    assert (outcome.code, outcome.out) == (3, "")
    assert len(outcome.err.splitlines()) == 1
    assert outcome.err.startswith(f"Error: pgvector {extension_version(connection)} is too old: cbirdb needs 99.0.0")
    assert "ALTER EXTENSION vector UPDATE" in outcome.err


def test_refused_upgrade_leaves_an_empty_database_empty(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    move_bound(monkeypatch, "MINIMUM_PGVECTOR", (99, 0, 0))
    with psycopg.connect(empty_database, autocommit=True) as connection:
        with pytest.raises(migrate.SchemaError, match="too old"):
            migrate.upgrade(connection)
        assert extension_version(connection) is None
        assert connection.execute("SELECT to_regnamespace('cbir')").fetchone() == (None,)


@pytest.mark.parametrize("bound", [(0, 8, 4), (0, 8)])
def test_doctor_accepts_the_installed_pgvector(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, bound: tuple[int, ...]
) -> None:
    move_bound(monkeypatch, "MINIMUM_PGVECTOR", bound)
    assert failed(doctor(cli)) == []


def test_doctor_fails_on_an_old_postgresql(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    move_bound(monkeypatch, "MINIMUM_POSTGRESQL", 990000)
    outcome = doctor(cli)
    assert outcome.code == 4
    assert failed(outcome) == ["PostgreSQL version"]
    assert "needs PostgreSQL" in check_rows(outcome)["PostgreSQL version"]["advice"]


def test_db_upgrade_refuses_an_old_postgresql(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    move_bound(monkeypatch, "MINIMUM_POSTGRESQL", 990000)
    outcome = cli("db", "upgrade")
    assert (outcome.code, outcome.out) == (3, "")
    assert len(outcome.err.splitlines()) == 1
    assert "is too old" in outcome.err
    assert "needs PostgreSQL" in outcome.err


@pytest.mark.parametrize(
    ("older", "newer"),
    [("0.8.4", "0.8.5"), ("0.8.5", "0.10.0"), ("0.8", "0.8.4"), ("0.7.4", "0.8.0"), ("0.9.9", "1.0"), ("0", "0.0.1")],
)
def test_versions_compare_by_number(older: str, newer: str) -> None:
    assert version_tuple(older) < version_tuple(newer)


@pytest.mark.parametrize(("version", "parts"), [("0.8.5", (0, 8, 5)), ("0.10.0", (0, 10, 0)), ("1", (1,))])
def test_version_is_split_into_numbers(version: str, parts: tuple[int, ...]) -> None:
    assert version_tuple(version) == parts


def test_doctor_reports_every_check_of_a_database_without_extension_and_schema(
    cli: Cli, empty_database: str, connection: psycopg.Connection
) -> None:
    outcome = doctor(cli, "--dsn", empty_database)
    assert outcome.code == 4
    assert len(outcome.rows) == len(CHECKS)
    assert {"pgvector version", "Schema cbir", "Privileges", "Nearest-neighbour query"} <= {
        row["check"].replace("Pgvector", "pgvector") for row in outcome.rows if row["result"] == "FAILED"
    }
    assert all(row["advice"] for row in outcome.rows if row["result"] == "FAILED")
    assert "CREATE EXTENSION vector" in check_rows(outcome)["pgvector version"]["advice"]
    assert "cbirdb db upgrade" in check_rows(outcome)["Schema cbir"]["advice"]


@pytest.fixture
def role(dsn: str) -> Iterator[str]:
    """Create a role without privileges for this test."""
    name = f"cbirdb_reader_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))
        yield name
        admin.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(name)))


def as_role(dsn: str, role: str) -> str:
    """Return a DSN whose session acts as the role from its first statement on."""
    return make_conninfo(dsn, options=f"-c role={role}")


def grant(connection: psycopg.Connection, what: str, role: str) -> None:
    connection.execute(sql.SQL("GRANT {} TO {}").format(sql.SQL(what), sql.Identifier(role)))  # type: ignore[arg-type]


def test_doctor_passes_a_role_that_may_only_read_and_says_so(
    cli: Cli, dsn: str, connection: psycopg.Connection, role: str
) -> None:
    grant(connection, "USAGE ON SCHEMA cbir", role)
    grant(connection, "SELECT ON ALL TABLES IN SCHEMA cbir", role)
    outcome = doctor(cli, "--dsn", as_role(dsn, role))
    row = check_rows(outcome)["Privileges"]
    assert row["result"] == "ok"
    assert row["detail"] == f"{role} may read"
    assert row["advice"] == "This role may not ingest or index; the schema's owner may."
    assert failed(outcome) == []
    assert outcome.code == 0


def test_doctor_fails_for_a_role_without_privileges(cli: Cli, dsn: str, role: str) -> None:
    outcome = doctor(cli, "--dsn", as_role(dsn, role))
    assert outcome.code == 4
    row = next(row for row in outcome.rows if row["check"].startswith("Privileges"))
    assert row["result"] == "FAILED"
    assert row["advice"]


# -- cbirdb datasets drop ----------------------------------------------------------------------------------------------

OF_IMAGES = ("image_label", "embedding_tiny_image")


def contents(connection: psycopg.Connection, dataset: str) -> dict[str, int]:
    """Count the rows of a dataset in each table."""
    queries = {
        "dataset": "SELECT count(*) FROM cbir.dataset WHERE name = %s",
        "image": "SELECT count(*) FROM cbir.image JOIN cbir.dataset AS d USING (dataset_id) WHERE d.name = %s",
        "failure": "SELECT count(*) FROM cbir.failure JOIN cbir.dataset AS d USING (dataset_id) WHERE d.name = %s",
        "runs": "SELECT count(*) FROM cbir.search_run WHERE %s = ANY(datasets)",
        "results": "SELECT count(*) FROM cbir.search_result JOIN cbir.search_run USING (run_id) WHERE %s = ANY(datasets)",
    }
    for table in OF_IMAGES:
        queries[table] = (
            f"SELECT count(*) FROM cbir.{table} JOIN cbir.image USING (image_id)"
            " JOIN cbir.dataset AS d USING (dataset_id) WHERE d.name = %s"
        )
    found = {}
    for what, query in queries.items():
        row = connection.execute(query.encode(), [dataset]).fetchone()
        assert row is not None
        found[what] = row[0]
    return found


def total(connection: psycopg.Connection, table: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM cbir.{table}".encode()).fetchone()
    assert row is not None
    return row[0]


@pytest.fixture
def two_datasets(cli: Cli, tmp_path: Path) -> None:
    """Fill datasets ``ours`` and ``theirs`` with everything that a dataset can have, and evaluate both together."""
    for number, name in enumerate(("ours", "theirs")):
        for picture in range(30):
            path = tmp_path / name / f"class {picture % 2}" / f"{picture:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture_bytes(1000 * number + picture))
        (tmp_path / name / "class 0" / "broken.png").write_bytes(b"no picture")
        assert cli("-q", "ingest", "folder", tmp_path / name, "--split", "50/0/50").code == 4
    assert cli("-q", "encode", "-e", "tiny-image").code in (0, 4)
    for datasets in (["-d", "ours"], ["-d", "theirs"], []):
        outcome = cli("-q", "evaluate", "-e", "tiny-image", "-k", 5, *datasets)
        assert outcome.code == 0, outcome.err


def test_datasets_drop_removes_all_of_a_dataset_and_nothing_of_another(
    cli: Cli, connection: psycopg.Connection, two_datasets: None
) -> None:
    before = {name: contents(connection, name) for name in ("ours", "theirs")}
    assert before["ours"]["image"] == before["theirs"]["image"] == 30
    assert before["ours"]["runs"] == before["theirs"]["runs"] == 2
    assert all(all(counts.values()) for counts in before.values()), before
    outcome = cli("datasets", "drop", "ours", "--yes")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "Removed the 30 images of 'ours'.\n")
    assert not any(contents(connection, "ours").values())
    after = contents(connection, "theirs")
    # The run over both is gone: without the one dataset's images its figures are of nothing.
    assert after["runs"] == 1
    assert after["results"] < before["theirs"]["results"]
    for what in ("dataset", "image", "failure", *OF_IMAGES):
        assert after[what] == before["theirs"][what], what
        assert total(connection, what) == after[what], f"orphans in {what}"
    assert total(connection, "search_run") == 1
    assert total(connection, "search_result") == after["results"]


def test_dropped_dataset_can_be_ingested_again(
    cli: Cli, connection: psycopg.Connection, two_datasets: None, tmp_path: Path
) -> None:
    before = contents(connection, "ours")
    assert cli("datasets", "drop", "ours", "--yes").code == 0
    cli("-q", "ingest", "folder", tmp_path / "ours", "--split", "50/0/50")
    cli("-q", "encode", "-e", "tiny-image")
    after = contents(connection, "ours")
    assert {**after, "runs": 0, "results": 0} == {**before, "runs": 0, "results": 0}


def test_datasets_drop_refuses_an_unknown_name_and_suggests_one(
    cli: Cli, connection: psycopg.Connection, two_datasets: None
) -> None:
    outcome = cli("datasets", "drop", "their", "--yes")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == "Error: There is no dataset named 'their'. Did you mean 'theirs'?\n"
    assert total(connection, "image") == 60


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_datasets_drop_asks_first_and_keeps_everything_without_a_yes(
    cli: Cli, connection: psycopg.Connection, two_datasets: None, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    before = contents(connection, "ours")
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    outcome = cli("datasets", "drop", "ours")
    assert outcome.code == (1 if answer else 130)
    assert outcome.out == ""
    assert "Remove the 30 images of 'ours'" in outcome.err
    assert "Removed" not in outcome.err
    assert contents(connection, "ours") == before


def test_datasets_drop_removes_the_dataset_after_a_yes(
    cli: Cli, connection: psycopg.Connection, two_datasets: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert cli("datasets", "drop", "ours").code == 0
    assert not any(contents(connection, "ours").values())
