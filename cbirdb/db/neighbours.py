"""Finds and stores the nearest neighbours of many queries, on the server, a batch per statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from cbirdb.db.connection import see_extension
from cbirdb.db.embeddings import StoredEncoder
from cbirdb.db.tables import SCHEMA

RUN_LOCK = 0x63626965
"""First key of the advisory lock that a process holds on a run while it works on it."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Whose neighbours are looked for, and among which images."""

    encoder: StoredEncoder
    datasets: tuple[str, ...]
    query_split: str
    index_split: str


@dataclass(frozen=True, slots=True)
class Counts:
    """How many images a selection has."""

    queries: int
    indexed: int
    left_out: int
    not_encoded: int


def count_selection(connection: psycopg.Connection, task: Selection) -> Counts:
    """Count the images that take part in an evaluation and those that do not, with the reason."""
    query = sql.SQL(
        """
        WITH selected AS (
            SELECT i.split, s.image_id IS NOT NULL AS labelled, e.image_id IS NOT NULL AS encoded
            FROM cbir.image AS i
            INNER JOIN cbir.dataset AS d ON d.dataset_id = i.dataset_id
            LEFT JOIN (
                SELECT image_id FROM cbir.single_label_image(%(query_split)s, %(datasets)s)
                UNION SELECT image_id FROM cbir.single_label_image(%(index_split)s, %(datasets)s)
            ) AS s ON s.image_id = i.image_id
            LEFT JOIN {table} AS e ON e.image_id = i.image_id
            WHERE i.split IN (%(query_split)s, %(index_split)s)
              AND (%(datasets)s::text[] IS NULL OR d.name = ANY(%(datasets)s))
        )
        SELECT count(*) FILTER (WHERE labelled AND encoded AND split = %(query_split)s),
               count(*) FILTER (WHERE labelled AND encoded AND split = %(index_split)s),
               count(*) FILTER (WHERE NOT labelled),
               count(*) FILTER (WHERE labelled AND NOT encoded)
        FROM selected
        """
    ).format(table=_table(task))
    row = connection.execute(query, _parameters(task)).fetchone()
    return Counts(*row) if row else Counts(0, 0, 0, 0)


def dataset_names(connection: psycopg.Connection, task: Selection) -> list[str]:
    """The datasets that take part: those with images of the two splits that have an embedding."""
    query = sql.SQL(
        """
        SELECT d.name FROM cbir.dataset AS d
        WHERE (%(datasets)s::text[] IS NULL OR d.name = ANY(%(datasets)s)) AND EXISTS (
            SELECT FROM cbir.image AS i INNER JOIN {table} AS e ON e.image_id = i.image_id
            WHERE i.dataset_id = d.dataset_id AND i.split IN (%(query_split)s, %(index_split)s)
        )
        ORDER BY d.name
        """
    ).format(table=_table(task))
    return [row[0] for row in connection.execute(query, _parameters(task))]


def query_ids(connection: psycopg.Connection, task: Selection) -> list[int]:
    """The ids of the images that are asked for, in order."""
    query = sql.SQL(
        "SELECT s.image_id FROM cbir.single_label_image(%(query_split)s, %(datasets)s) AS s"
        " INNER JOIN {table} AS e ON e.image_id = s.image_id ORDER BY s.image_id"
    ).format(table=_table(task))
    return [row[0] for row in connection.execute(query, _parameters(task))]


def remove_unfinished_runs(connection: psycopg.Connection) -> None:
    """Remove what killed evaluations left behind; a run whose process lives holds its lock."""
    unfinished = connection.execute("SELECT run_id FROM cbir.search_run WHERE finished_at IS NULL").fetchall()
    for (run_id,) in unfinished:
        with connection.transaction():
            connection.execute(
                "DELETE FROM cbir.search_run WHERE run_id = %s AND finished_at IS NULL"
                " AND pg_try_advisory_xact_lock(%s, %s::int)",
                [run_id, RUN_LOCK, run_id],
            )


def count_short(connection: psycopg.Connection, run_id: int, wanted: int) -> int:
    """Queries for which fewer neighbours were stored than exist (one less where the query itself is indexed)."""
    row = connection.execute(
        """
        SELECT count(*)
        FROM cbir.search_result AS r
        INNER JOIN cbir.search_run AS run ON run.run_id = r.run_id
        WHERE r.run_id = %s AND cardinality(r.neighbour_ids) < least(
            %s::bigint, run.indexed_images - CASE WHEN run.query_split = run.index_split THEN 1 ELSE 0 END
        )
        """,
        [run_id, wanted],
    ).fetchone()
    return int(row[0]) if row else 0


def count_without_relevant(connection: psycopg.Connection, run_id: int) -> int:
    """Queries whose label no indexed image carries."""
    row = connection.execute(
        "SELECT count(*) FROM cbir.search_result WHERE run_id = %s AND relevant_count = 0", [run_id]
    ).fetchone()
    return int(row[0]) if row else 0


def _table(task: Selection) -> sql.Identifier:
    return sql.Identifier(SCHEMA, task.encoder.table)


def _parameters(task: Selection) -> dict[str, Any]:
    return {
        "query_split": task.query_split,
        "index_split": task.index_split,
        "datasets": list(task.datasets) or None,
    }


# The images that may be retrieved, with their one label: once per transaction, for all its statements.
_CANDIDATES: LiteralString = """
CREATE TEMPORARY TABLE candidate ON COMMIT DROP AS
SELECT s.image_id, s.label_id
FROM cbir.single_label_image(%(index_split)s, %(datasets)s) AS s
INNER JOIN {table} AS e ON e.image_id = s.image_id
"""

# "+ 0" keeps the sort off any vector index. Equal distances are ordered by image_id, so that a run can be repeated.
_EXACT: LiteralString = """
SELECT c.image_id, c.label_id, (e.embedding <=> q.embedding) + 0 AS distance
FROM {table} AS e INNER JOIN candidate AS c ON c.image_id = e.image_id
WHERE e.image_id <> q.image_id
ORDER BY distance, c.image_id
LIMIT %(k)s
"""

# A sub-query under IS TRUE stays a filter of the index scan: as a join it would lead the planner off the index.
_APPROXIMATE: LiteralString = """
SELECT n.image_id, c.label_id, n.distance
FROM (
    SELECT e.image_id, e.embedding <=> q.embedding AS distance
    FROM {table} AS e
    WHERE (e.image_id IN (SELECT image_id FROM candidate)) IS TRUE AND e.image_id <> q.image_id
    ORDER BY e.embedding <=> q.embedding
    LIMIT %(k)s
) AS n INNER JOIN candidate AS c ON c.image_id = n.image_id
"""

_STORE: LiteralString = """
INSERT INTO cbir.search_result (run_id, query_image_id, label_id, relevant_count, neighbour_ids, distances, hits)
SELECT %(run_id)s, q.image_id, q.label_id,
       coalesce(relevant.count, 0) - CASE WHEN EXISTS (SELECT FROM candidate WHERE image_id = q.image_id) THEN 1 ELSE 0 END,
       found.ids, found.distances, found.hits
FROM (
    SELECT e.image_id, e.embedding, s.label_id
    FROM {table} AS e
    INNER JOIN query AS s ON s.image_id = e.image_id
    WHERE e.image_id = ANY(%(queries)s)
) AS q
LEFT JOIN (SELECT label_id, count(*) FROM candidate GROUP BY label_id) AS relevant ON relevant.label_id = q.label_id
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(image_id ORDER BY distance, image_id), '{{}}') AS ids,
           coalesce(array_agg(distance::real ORDER BY distance, image_id), '{{}}') AS distances,
           coalesce(array_agg(hits ORDER BY distance, image_id), '{{}}') AS hits
    FROM (
        SELECT image_id, distance,
               (count(*) FILTER (WHERE label_id = q.label_id) OVER (ORDER BY distance, image_id))::smallint AS hits
        FROM ({nearest}) AS nearest
    ) AS ranked
) AS found
"""

_RECALL: LiteralString = """
SELECT avg(share)
FROM (
    SELECT (SELECT count(*) FROM unnest(r.distances[1:%(at)s]) AS d (distance) WHERE d.distance <= true_k.farthest + 1e-6)
           ::double precision / true_k.existing AS share
    FROM cbir.search_result AS r
    INNER JOIN {table} AS q ON q.image_id = r.query_image_id
    CROSS JOIN LATERAL (
        SELECT max(distance) AS farthest, count(*) AS existing
        FROM (
            SELECT (e.embedding <=> q.embedding) + 0 AS distance
            FROM {table} AS e INNER JOIN candidate AS c ON c.image_id = e.image_id
            WHERE e.image_id <> q.image_id
            ORDER BY distance
            LIMIT %(at)s
        ) AS nearest
    ) AS true_k
    WHERE r.run_id = %(run_id)s AND r.query_image_id = ANY(%(queries)s)
) AS shares
"""


@dataclass(frozen=True, slots=True)
class Search:
    """One run's search. ``build`` is the index build to go through, or None to compare with every image."""

    task: Selection
    run_id: int
    k: int
    build: Any | None

    def prepare(self, connection: psycopg.Connection) -> None:
        """In an open transaction: make the temporary tables and settings that its statements use."""
        parameters = _parameters(self.task)
        self._apply_settings(connection)
        connection.execute(sql.SQL(_CANDIDATES).format(table=_table(self.task)), parameters)
        connection.execute("CREATE UNIQUE INDEX ON pg_temp.candidate (image_id)")
        connection.execute(
            "CREATE TEMPORARY TABLE query ON COMMIT DROP AS"
            " SELECT image_id, label_id FROM cbir.single_label_image(%(query_split)s, %(datasets)s)",
            parameters,
        )
        connection.execute("ANALYZE pg_temp.candidate")
        connection.execute("ANALYZE pg_temp.query")

    def store(self, connection: psycopg.Connection, queries: Sequence[int]) -> None:
        """Find and store the neighbours of some queries."""
        nearest = _EXACT if self.build is None else _APPROXIMATE
        table = _table(self.task)
        statement = sql.SQL(_STORE).format(table=table, nearest=sql.SQL(nearest).format(table=table))
        parameters = {"run_id": self.run_id, "queries": list(queries), "k": self.k}
        connection.execute(statement, parameters)

    def recall(self, connection: psycopg.Connection, queries: Sequence[int], at: int) -> float:
        """Share of the true ``at`` nearest that are stored, a tie with the farthest of them counting as found."""
        statement = sql.SQL(_RECALL).format(table=_table(self.task))
        parameters = {"run_id": self.run_id, "queries": list(queries), "at": min(at, self.k)}
        row = connection.execute(statement, parameters).fetchone()
        return float(row[0]) if row and row[0] is not None else 0.0

    def _apply_settings(self, connection: psycopg.Connection) -> None:
        """The planner's and pgvector's settings, for this transaction only: a pooler may hand the session on."""
        see_extension(connection)
        settings = {"jit": "off"}
        if self.build is not None:
            settings |= {name: str(value) for name, value in self.build.search_settings.items()}
            ef_search = max(int(settings.get("hnsw.ef_search", 40)), min(self.k + 1, 1000))
            settings |= {
                "hnsw.ef_search": str(ef_search),
                "hnsw.iterative_scan": "strict_order",
                "enable_seqscan": "off",
            }
        for name, value in settings.items():
            connection.execute("SELECT set_config(%s, %s, true)", [name, value])
