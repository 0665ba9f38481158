"""Test what pgvector's known defects forbid on an old server, and that no cbirdb build can trigger the one in IVFFlat.

IVFFlat builds before 0.8.7 overflow where a value has other dimensions than its index. The server's own checks make that
impossible for a column that is declared with its dimensions; the tests below show it for every way that a value may take.
"""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cbirdb.db import known_defects
from cbirdb.db.extension import extension_version
from cbirdb.db.known_defects import (
    DEFECTS,
    Defect,
    declares_dimensions,
    missing_fixes,
    on_embedded_server,
)
from cbirdb.index import choose_method
from cbirdb.index.choose import SAMPLE
from cbirdb.index.methods import METHODS, IvfFlat
from cbirdb.records import Precision
from tests.support.index_checks import DIM, TABLE, Cli, build, fill, one_sentence, records

PRECISIONS: tuple[Precision, ...] = ("half", "single")
WARNING = "a buffer overflow in IVFFlat index builds (CVE-2026-103484)"


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise the release that fixes the defect above the version of the real server."""
    monkeypatch.setattr(known_defects, "SAFE_IVFFLAT", (99, 0, 0))
    monkeypatch.setattr(known_defects, "DEFECTS", (Defect((99, 0, 0), DEFECTS[0].description), *DEFECTS[1:]))


@pytest.fixture
def shared(cli: Cli, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Reach the same database through another socket folder, so that the server is not taken for the embedded one."""
    host = conninfo_to_dict(dsn).get("host")
    if host and str(host).startswith("/"):
        link = tmp_path / "s"
        link.symlink_to(str(host))
        dsn = make_conninfo(dsn, host=str(link))
    monkeypatch.setenv("CBIRDB_DSN", dsn)
    return dsn


# -- what our builds cannot meet ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dimensions", [DIM - 1, DIM + 1, 2 * DIM])
@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO {table} SELECT max(image_id), {value}::{kind} FROM {table}",
        "INSERT INTO {table} SELECT image_id, v FROM (SELECT 1 AS image_id, {value}::{kind} AS v) AS untyped",
        "UPDATE {table} SET embedding = {value}::{kind}",
        "UPDATE {table} SET embedding = {value}",
        "ALTER TABLE {table} ALTER embedding TYPE {kind}({dimensions})",
        "DO $$ DECLARE x {kind} := {value}; BEGIN UPDATE {table} SET embedding = x; END $$",
        "WITH new AS (SELECT {value}::vector AS v) UPDATE {table} SET embedding = v::{kind} FROM new",
    ],
)
def test_embedding_column_refuses_a_value_of_other_dimensions(
    connection: psycopg.Connection, precision: Precision, dimensions: int, statement: str
) -> None:
    encoder = fill(connection, precision=precision)
    value = sql.Literal("[" + ",".join(["1"] * dimensions) + "]")
    kind = sql.SQL({"half": "halfvec", "single": "vector"}[precision])
    with pytest.raises(psycopg.errors.DataException, match=f"expected {DIM} dimensions, not|expected {dimensions} dim"):
        connection.execute(
            sql.SQL(statement).format(  # type: ignore[arg-type]
                table=sql.SQL(TABLE),
                value=value,
                kind=kind,
                dimensions=sql.SQL(str(dimensions)),  # type: ignore[arg-type]
            )
        )
    assert declares_dimensions(connection, encoder)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("form", ["TEXT", "BINARY"])
def test_copy_refuses_a_value_of_other_dimensions(
    connection: psycopg.Connection, precision: Precision, form: str
) -> None:
    fill(connection, precision=precision)
    kind = {"half": "halfvec", "single": "vector"}[precision]
    connection.execute(
        f"CREATE TEMPORARY TABLE wide AS SELECT 1::bigint, array_fill(1::real, ARRAY[{DIM + 1}])::{kind}"
    )
    with connection.cursor().copy(f"COPY wide TO STDOUT (FORMAT {form})") as out:
        data = b"".join(bytes(part) for part in out)
    with (
        pytest.raises(psycopg.errors.DataException, match=f"expected {DIM} dimensions, not {DIM + 1}"),
        connection.cursor().copy(f"COPY {TABLE} (image_id, embedding) FROM STDIN (FORMAT {form})") as into,
    ):
        into.write(data)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("lists", [1, 14, 500])
def test_ivfflat_index_is_built_on_the_bare_column_with_its_dimensions(
    cli: Cli, connection: psycopg.Connection, precision: Precision, lists: int
) -> None:
    fill(connection, precision=precision)
    build(cli, "--method", "ivfflat", "--lists", lists, "--allow-ivfflat", "--no-audit")
    found = connection.execute(
        """
        SELECT i.indexprs IS NULL, i.indpred IS NULL, t.attname, a.atttypmod, t.atttypmod
        FROM pg_index AS i
        INNER JOIN pg_class AS c ON c.oid = i.indexrelid
        INNER JOIN pg_am AS m ON m.oid = c.relam AND m.amname = 'ivfflat'
        INNER JOIN pg_attribute AS a ON a.attrelid = i.indexrelid
        INNER JOIN pg_attribute AS t ON t.attrelid = i.indrelid AND t.attnum = i.indkey[0]
        """
    ).fetchall()
    assert found == [(True, True, "embedding", DIM, DIM)]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_sample_table_for_trying_methods_declares_its_dimensions(
    connection: psycopg.Connection, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = fill(connection, precision=precision)
    seen = []
    create = IvfFlat.create_statement

    def watched(self: IvfFlat, table: sql.Identifier, *rest: object) -> sql.Composed:
        seen.append(
            connection.execute(
                "SELECT atttypmod FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'embedding'",
                [f"pg_temp.{SAMPLE}"],
            ).fetchone()
        )
        return create(self, table, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(IvfFlat, "create_statement", watched)
    choose_method(connection, encoder, rows=100, allow_ivfflat=True)
    assert seen == [(DIM,), (DIM,)]


@pytest.mark.usefixtures("old")
@pytest.mark.parametrize("flag", [[], ["--allow-ivfflat"]])
def test_column_without_dimensions_gets_no_ivfflat_index(
    cli: Cli, connection: psycopg.Connection, flag: list[str]
) -> None:
    encoder = fill(connection)
    connection.execute(f"ALTER TABLE {TABLE} ALTER embedding TYPE halfvec")
    assert not declares_dimensions(connection, encoder)
    said = one_sentence(cli("-q", "index", "build", "-e", "toy", "--method", "ivfflat", *flag))
    assert f"does not declare that its vectors have {DIM} dimensions" in said
    assert records(connection) == []


def test_view_in_place_of_the_embedding_table_declares_no_dimensions(connection: psycopg.Connection) -> None:
    encoder = fill(connection)
    connection.execute(f"ALTER TABLE {TABLE} RENAME TO elsewhere")
    connection.execute(f"CREATE VIEW {TABLE} AS SELECT * FROM cbir.elsewhere")
    assert not declares_dimensions(connection, encoder)


# -- what is done on an old server -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("old", "shared")
def test_shared_old_server_gets_ivfflat_only_with_allow_ivfflat(cli: Cli, connection: psycopg.Connection) -> None:
    fill(connection)
    said = one_sentence(cli("-q", "index", "build", "-e", "toy", "--method", "ivfflat"))
    assert said.startswith(f"Error: pgvector {extension_version(connection)} has {WARNING}, which 99.0.0 fixes.")
    assert "--allow-ivfflat" in said
    assert records(connection) == []
    outcome = cli("index", "build", "-e", "toy", "--method", "ivfflat", "--allow-ivfflat", "--format", "json")
    assert outcome.code == 0, outcome.err
    assert "Building an IVFFlat index because of --allow-ivfflat." in outcome.err
    assert [row["method"] for row in outcome.rows] == ["ivfflat"]


@pytest.mark.usefixtures("old", "shared")
@pytest.mark.parametrize(("flag", "tried"), [([], {"hnsw", "bit-hnsw"}), (["--allow-ivfflat"], set(METHODS))])
def test_auto_skips_ivfflat_on_a_shared_old_server_and_says_so(
    cli: Cli, connection: psycopg.Connection, flag: list[str], tried: set[str]
) -> None:
    fill(connection)
    outcome = cli("index", "build", "-e", "toy", "--sample", 150, "--format", "json", *flag)
    assert outcome.code in {0, 4}, outcome.err
    assert ("IVFFlat is not tried: pgvector" in outcome.err) == (not flag)
    row = connection.execute("SELECT choice FROM cbir.index_build WHERE dropped_at IS NULL").fetchone()
    assert row is not None
    assert {trial["method"] for trial in row[0]["trials"]} == tried


@pytest.mark.usefixtures("old")
def test_old_server_builds_methods_other_than_ivfflat(cli: Cli, connection: psycopg.Connection, shared: str) -> None:
    fill(connection)
    for method in sorted(set(METHODS) - {"ivfflat"}):
        assert build(cli, "--method", method)["method"] == method


@pytest.mark.usefixtures("old", "shared")
def test_warning_on_a_shared_old_server_names_the_release_with_the_fix(
    cli: Cli, connection: psycopg.Connection
) -> None:
    outcome = cli("encoders", "list")
    assert outcome.code == 0
    [warning] = [line for line in outcome.err.splitlines() if line.startswith("Warning: ")]
    assert f"99.0.0 fixes {WARNING}" in warning
    assert "ALTER EXTENSION vector UPDATE" in warning
    assert cli("-q", "encoders", "list").err == ""


@pytest.mark.usefixtures("old", "shared")
def test_doctor_names_the_release_that_fixes_an_old_server(cli: Cli) -> None:
    outcome = cli("-q", "db", "doctor", "--format", "json")
    assert outcome.code == 0
    [row] = [row for row in outcome.rows if row["check"] == "pgvector version"]
    assert row["result"] == "ok"
    assert f"99.0.0 fixes {WARNING}" in row["advice"]
    assert "ALTER EXTENSION vector UPDATE" in row["advice"]


@pytest.mark.usefixtures("old")
def test_embedded_server_builds_ivfflat_and_doctor_names_the_release_with_the_fix(
    cli: Cli, connection: psycopg.Connection
) -> None:
    if not on_embedded_server(connection):
        pytest.skip("this run's server is not the embedded one")
    fill(connection)
    outcome = cli("index", "build", "-e", "toy", "--method", "ivfflat", "--format", "json")
    assert outcome.code == 0, outcome.err
    assert "Warning" not in outcome.err
    doctor = cli("-q", "db", "doctor", "--format", "json")
    [row] = [row for row in doctor.rows if row["check"] == "pgvector version"]
    assert "will bring 99.0.0 once" in row["advice"]


@pytest.mark.parametrize(
    ("installed", "releases"),
    [
        ("0.8.4", ["0.8.7", "0.8.6"]),
        ("0.8.5", ["0.8.7", "0.8.6"]),
        ("0.8.6", ["0.8.7"]),
        ("0.8.1", ["0.8.7", "0.8.6", "0.8.4", "0.8.2"]),
    ],
)
def test_missing_fixes_names_each_release_and_what_it_fixes(installed: str, releases: list[str]) -> None:
    said = missing_fixes(installed)
    assert said.startswith(f"pgvector {installed} has known defects: ")
    assert [word for word in said.split() if word.count(".") == 2 and word != installed] == releases
    named = {release: defect.description for defect in DEFECTS if (release := ".".join(map(str, defect.fixed_in)))}
    assert all(f"{release} fixes {named[release]}" in said for release in releases)


@pytest.mark.parametrize("installed", ["0.8.7", "0.8.10", "0.9.0", "1.0.0"])
def test_release_without_known_defects_gets_no_warning(installed: str) -> None:
    assert missing_fixes(installed) == ""
