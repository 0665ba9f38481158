"""Test ``cbirdb index``: what it records, what it builds, and what it refuses."""

from __future__ import annotations

import re

import psycopg
import pytest
from psycopg import sql

from cbirdb.db.embeddings import StoredEncoder, register_encoder
from cbirdb.db.index_builds import server_versions
from cbirdb.index import build_index
from cbirdb.index.methods import Hnsw
from cbirdb.records import Precision
from tests.support.index_checks import DIM, ROWS, TABLE, Cli, build, fill, indexes, one_sentence, records


@pytest.fixture
def toy(connection: psycopg.Connection) -> StoredEncoder:
    return fill(connection)


# -- what is built and recorded ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "operators"), [("half", "halfvec_cosine_ops"), ("single", "vector_cosine_ops")])
def test_index_build_uses_the_given_parameters(
    cli: Cli, connection: psycopg.Connection, precision: Precision, operators: str
) -> None:
    fill(connection, precision=precision)
    build(cli, "--m", 7, "--ef-construction", 33, "--ef-search", 44)
    assert [found[1:] for found in indexes(connection)] == [(operators, {"m": "7", "ef_construction": "33"}, True)]
    [(name, parameters, used)] = records(connection)
    assert (name, parameters, used) == (indexes(connection)[0][0], {"m": 7, "ef_construction": 33}, True)


def test_index_build_records_all_facts_of_the_build(
    cli: Cli, connection: psycopg.Connection, toy: StoredEncoder
) -> None:
    printed = build(cli, "--m", 8, "--ef-construction", 40, "--ef-search", 60)
    row = connection.execute(
        """
        SELECT e.name, b.method, b.parameters, b.search_settings, b.rows_indexed,
               b.index_bytes = pg_relation_size(('cbir.' || quote_ident(b.index_name))::regclass), b.index_bytes > 8192,
               b.memory_estimate_bytes, b.build_seconds > 0, b.versions,
               b.built_at BETWEEN now() - interval '10 minutes' AND now(), b.dropped_at, b.index_build_id
        FROM cbir.index_build AS b JOIN cbir.encoder AS e USING (encoder_id)
        """
    ).fetchall()
    assert len(row) == 1
    assert row[0][:-1] == (
        "toy", "hnsw", {"m": 8, "ef_construction": 40}, {"hnsw.ef_search": 60}, ROWS, True, True,
        Hnsw(8, 40, 60).memory_estimate(ROWS, DIM, "half"), True, server_versions(connection), True, None,
    )  # fmt: skip
    assert set(printed) >= {"index_mb", "memory_estimate_mb", "seconds", "built_at"}
    assert {key: printed[key] for key in ("encoder", "build", "method", "parameters", "search", "rows")} == {
        "encoder": "toy", "build": row[0][-1], "method": "hnsw", "parameters": "m=8 ef_construction=40",
        "search": "hnsw.ef_search=60", "rows": ROWS,
    }  # fmt: skip


def test_server_versions_names_postgresql_and_pgvector(connection: psycopg.Connection) -> None:
    versions = server_versions(connection)
    assert set(versions) == {"postgresql", "pgvector"}
    assert all(re.match(r"[0-9]+\.[0-9]+", version) for version in versions.values())


def test_index_build_uses_the_defaults_of_the_method(
    cli: Cli, connection: psycopg.Connection, toy: StoredEncoder
) -> None:
    build(cli)
    assert indexes(connection)[0][2] == {"m": "16", "ef_construction": "128"}
    assert connection.execute("SELECT search_settings FROM cbir.index_build").fetchone() == ({"hnsw.ef_search": 100},)


def test_index_build_analyzes_the_table(cli: Cli, connection: psycopg.Connection, toy: StoredEncoder) -> None:
    build(cli)
    assert connection.execute("SELECT reltuples FROM pg_class WHERE oid = %s::regclass", [TABLE]).fetchone() == (ROWS,)
    analyzed = connection.execute(
        "SELECT last_analyze IS NOT NULL FROM pg_stat_user_tables WHERE relid = %s::regclass", [TABLE]
    )
    assert analyzed.fetchone() == (True,)
    columns = connection.execute(
        "SELECT attname FROM pg_stats WHERE schemaname = 'cbir' AND tablename = 'embedding_toy'"
    ).fetchall()
    assert ("image_id",) in columns


def test_index_status_prints_the_same_as_index_build(cli: Cli, toy: StoredEncoder) -> None:
    built = build(cli, "--m", 8, "--ef-construction", 40)
    outcome = cli("index", "status", "-e", "toy", "--format", "json")
    assert outcome.code == 0
    assert outcome.rows == [built]
    assert "m=8 ef_construction=40" in cli("index", "status", "-e", "toy").out


def test_rebuild_replaces_the_index_and_keeps_its_record(
    cli: Cli, connection: psycopg.Connection, toy: StoredEncoder
) -> None:
    first = build(cli, "--m", 8, "--ef-construction", 40)
    [(old, *_)] = indexes(connection)
    second = build(cli, "--m", 12, "--ef-construction", 50)
    [(new, _, options, used)] = indexes(connection)
    assert (options, used) == ({"m": "12", "ef_construction": "50"}, True)
    assert new != old
    assert second["build"] > first["build"]
    assert records(connection) == [
        (old, {"m": 8, "ef_construction": 40}, False),
        (new, {"m": 12, "ef_construction": 50}, True),
    ]
    assert cli("index", "status", "-e", "toy", "--format", "json").rows == [second]


def test_rebuild_counts_the_rows_that_exist_now(cli: Cli, connection: psycopg.Connection, toy: StoredEncoder) -> None:
    assert build(cli)["rows"] == ROWS
    connection.execute(f"DELETE FROM {TABLE} WHERE image_id IN (SELECT image_id FROM {TABLE} LIMIT 50)")
    assert build(cli)["rows"] == ROWS - 50


def test_index_drop_removes_the_index_and_keeps_its_record(
    cli: Cli, connection: psycopg.Connection, toy: StoredEncoder
) -> None:
    build(cli)
    outcome = cli("index", "drop", "-e", "toy")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "Dropped the index of 'toy'.\n")
    assert indexes(connection) == []
    assert [used for _, _, used in records(connection)] == [False]
    for command in ("drop", "status"):
        assert "cbirdb index build -e toy" in one_sentence(cli("index", command, "-e", "toy"))
    build(cli)
    assert [used for _, _, used in records(connection)] == [False, True]


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--m", 1], "--m must lie between 2 and 100, not 1."),
        (["--m", 101], "--m must lie between 2 and 100, not 101."),
        (["--m", -3], "--m must lie between 2 and 100, not -3."),
        (["--ef-construction", 3], "--ef-construction must lie between 4 and 1000, not 3."),
        (["--ef-construction", 1001], "--ef-construction must lie between 4 and 1000, not 1001."),
        (["--ef-search", 0], "--ef-search must lie between 1 and 1000, not 0."),
        (["--ef-search", 1001], "--ef-search must lie between 1 and 1000, not 1001."),
        (["--m", 64, "--ef-construction", 127], "--ef-construction must be at least twice --m, that is 128."),
    ],
)
def test_parameters_out_of_range_give_one_sentence_and_change_nothing(
    cli: Cli, connection: psycopg.Connection, toy: StoredEncoder, arguments: list[object], said: str
) -> None:
    outcome = cli("index", "build", "-e", "toy", *arguments)
    assert (outcome.code, outcome.out, outcome.err) == (2, "", f"Error: {said}\n")
    assert indexes(connection) == records(connection) == []


@pytest.mark.parametrize("arguments", [["--m", 2, "--ef-construction", 4], ["--m", 100, "--ef-construction", 200]])
def test_server_accepts_the_smallest_and_largest_parameters(
    cli: Cli, toy: StoredEncoder, arguments: list[object]
) -> None:
    build(cli, *arguments, "--ef-search", 1000)


def test_index_build_refuses_an_encoder_without_embeddings(cli: Cli, connection: psycopg.Connection) -> None:
    register_encoder(connection, "toy", dim=DIM, precision="half", spec={}, provenance={})
    said = one_sentence(cli("index", "build", "-e", "toy"))
    assert "There are no embeddings of 'toy' to index. Run: cbirdb encode -e toy" in said
    assert indexes(connection) == records(connection) == []


@pytest.mark.parametrize("command", ["build", "drop", "status"])
def test_index_commands_refuse_unused_and_unknown_encoders_with_advice(
    cli: Cli, toy: StoredEncoder, command: str
) -> None:
    assert "cbirdb encode -e tiny-image" in one_sentence(cli("index", command, "-e", "tiny-image"))
    assert "Did you mean 'toy'?" in one_sentence(cli("index", command, "-e", "toys"))


# -- memory ------------------------------------------------------------------------------------------------------------


NO_LONGER_FITS = "no longer fits"


def set_memory(connection: psycopg.Connection, value: str) -> None:
    """Set maintenance_work_mem for later sessions of the test's database."""
    connection.execute(
        sql.SQL("ALTER DATABASE {} SET maintenance_work_mem = {}").format(
            sql.Identifier(connection.info.dbname), sql.Literal(value)
        )
    )


def server_notices(dsn: str, encoder: StoredEncoder, method: Hnsw) -> list[str]:
    """Build an index; return the notices of pgvector."""
    said: list[str] = []
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.add_notice_handler(lambda notice: said.append(notice.message_primary or ""))
        build_index(connection, encoder, method, connect=lambda: psycopg.connect(dsn))
    return said


def test_memory_that_index_build_advises_is_enough_for_the_graph(
    cli: Cli, connection: psycopg.Connection, dsn: str
) -> None:
    encoder = fill(connection, rows=1500, dim=512)
    method = Hnsw(4, 8)
    set_memory(connection, "1MB")
    outcome = cli("index", "build", "-e", "toy", "--m", 4, "--ef-construction", 8)
    assert outcome.code == 0
    assert "needs about 2 MB; maintenance_work_mem is 1 MB." in outcome.err
    advice = re.search(r"SET maintenance_work_mem = '([0-9]+MB)'", outcome.err)
    assert advice, outcome.err
    assert any(NO_LONGER_FITS in notice for notice in server_notices(dsn, encoder, method))
    set_memory(connection, advice[1])
    outcome = cli("index", "build", "-e", "toy", "--m", 4, "--ef-construction", 8)
    assert outcome.code == 0
    assert "The graph of 1,500 vectors needs about 2 MB" in outcome.err
    assert "SET maintenance_work_mem" not in outcome.err
    assert not any(NO_LONGER_FITS in notice for notice in server_notices(dsn, encoder, method))
