"""cbir_internal.plan_search: when a search under a filter compares exactly, looks first, or walks at once."""

from __future__ import annotations

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

METHODS = {"hnsw": {"hnsw.ef_search": 50}, "bit-hnsw": {"rerank": 100}, "ivfflat": {"ivfflat.probes": 4}}


def plan(
    connection: psycopg.Connection, method: str, *, indexed: int, k: int, matches: float
) -> tuple[float, int, int | None]:
    row = connection.execute(
        "SELECT p.share, p.exact_up_to, p.look_at FROM cbir_internal.plan_search(%s, '{\"lists\": 200}', %s, %s, 512, %s, %s) AS p",
        [method, Jsonb(METHODS[method]), indexed, k, matches],
    ).fetchone()
    assert row is not None
    return row


@pytest.mark.parametrize(
    ("matches", "expected"),
    [
        # The thousandth row takes a width of 2,030, of which pgvector allows 1,000: 31 matches make up for it.
        # 31 / 0.01 candidates cost 7 each; sqrt(1,000 * 21,700) = 4,658.3.
        (1_000, (0.01, 4_659, None)),
        # 12 / 0.1 candidates; sqrt(10,000 * 840) = 2,898.3. Four matches are expected among 40.
        (10_000, (0.1, 2_899, 40)),
        # 12 / 0.5 candidates; sqrt(50,000 * 168) = 2,898.3. More than eight times as many match.
        (50_000, (0.5, 2_899, None)),
    ],
)
def test_plan_of_a_graph_worked_by_hand(
    connection: psycopg.Connection, matches: int, expected: tuple[float, int, int | None]
) -> None:
    assert plan(connection, "hnsw", indexed=100_000, k=10, matches=matches) == expected


def test_plan_of_lists_counts_the_rows_of_the_lists_it_reads(connection: psycopg.Connection) -> None:
    # Share 0.1: 3 * 200 / 100,000 = 0.006 lists a row, so 4 * 1.54 = 6 lists at a hundred. 0.45 * 100,000 * 6 / 200 + 2.5 * 12 / 0.1
    # = 1,650; sqrt(10,000 * 1,650) = 4,062.02.
    assert plan(connection, "ivfflat", indexed=100_000, k=10, matches=10_000) == (0.1, 4_063, 40)


def test_planning_reads_no_table(connection: psycopg.Connection) -> None:
    volatility = connection.execute(
        "SELECT DISTINCT provolatile FROM pg_proc"
        " WHERE oid IN ('cbir_internal.plan_search'::regproc, 'cbir_internal.index_walk'::regproc)"
    ).fetchall()
    assert volatility == [("i",)]
    with connection.transaction():
        connection.execute("LOCK TABLE cbir.encoder, cbir.index_build, cbir.image IN ACCESS EXCLUSIVE MODE")
        taken = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND relation IS NOT NULL"
        before = connection.execute(taken).fetchone()
        plan(connection, "hnsw", indexed=1_000, k=10, matches=10)
        assert connection.execute(taken).fetchone() == before


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    method=st.sampled_from([*METHODS]),
    indexed=st.integers(1, 10_000_000),
    k=st.integers(1, 1_000),
    part=st.floats(1e-6, 1.5),
)
def test_every_plan_can_be_carried_out(
    connection: psycopg.Connection, method: str, indexed: int, k: int, part: float
) -> None:
    matches = max(part * indexed, 1)
    share, exact_up_to, look_at = plan(connection, method, indexed=indexed, k=k, matches=matches)
    assert 0 < share < 1
    assert exact_up_to >= 1
    if look_at is not None:
        assert look_at >= 4
        assert matches > min(exact_up_to, 5_000)
