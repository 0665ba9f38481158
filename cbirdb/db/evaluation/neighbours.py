"""Finds and stores the nearest neighbours of many queries, on the server, a batch per statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import numpy as np
import psycopg
from psycopg import sql

from cbirdb.db.evaluation.measure_pairs import AMONG_LISTED, list_images
from cbirdb.db.evaluation.selection import (
    CATALOGUE_HASH,
    CONTENT_HASH,
    ChangedError,
    Selection,
    parameters_of,
    table_of,
)
from cbirdb.db.evaluation.store_neighbours import JOIN_FOUND, NearestImages, send_found
from cbirdb.db.extension import add_extension_to_search_path
from cbirdb.db.index_builds import IndexBuild
from cbirdb.db.index_scan import Walk, apply_settings, index_walk
from cbirdb.db.rows import one_row, one_value

# The images to search, with the labels that count. One table per transaction serves all its statements.
_CANDIDATES: LiteralString = """
CREATE TEMPORARY TABLE candidate ON COMMIT DROP AS
SELECT s.image_id, s.patient_id, s.label_ids, e.xmin AS version
FROM cbir_internal.protocol_image(%(protocol)s, %(index_split)s, %(datasets)s, %(split_seed)s) AS s
INNER JOIN {table} AS e ON e.image_id = s.image_id
"""

_QUERIES: LiteralString = """
CREATE TEMPORARY TABLE query ON COMMIT DROP AS
SELECT s.image_id, s.patient_id, s.label_ids, e.xmin AS version
FROM cbir_internal.protocol_image(%(protocol)s, %(query_split)s, %(datasets)s, %(split_seed)s) AS s
INNER JOIN {table} AS e ON e.image_id = s.image_id
"""

# The same fingerprint as in count_selection.
_FINGERPRINT: LiteralString = """
SELECT concat_ws(' ', (SELECT coalesce(sum({hash}), 0) FROM pg_temp.query), indexed.content, indexed.catalogue)
FROM (
    SELECT coalesce(sum({hash}), 0) AS content, coalesce(sum({catalogue_hash}), 0) AS catalogue FROM pg_temp.candidate
) AS indexed
"""

# "+ 0" keeps the sort off any vector index. Equal distances are ordered by image_id, so that a run is repeatable.
_EXACT: LiteralString = """
SELECT c.image_id, c.label_ids, (e.embedding <=> q.embedding) + 0 AS distance
FROM {table} AS e INNER JOIN candidate AS c ON c.image_id = e.image_id
WHERE e.image_id <> q.image_id AND (%(same_patient)s OR c.patient_id IS DISTINCT FROM q.patient_id OR q.patient_id IS NULL)
ORDER BY distance, c.image_id
LIMIT %(k)s
"""

# The walk of cbir_internal.index_walk, for each query. Candidates are tested after the walk: inside it, a filter that matches
# only far from a query would read the whole index. A sub-query under IS TRUE is read once; a join would lead the
# planner off the index.
_APPROXIMATE: LiteralString = """
SELECT n.image_id, c.label_ids, n.distance
FROM (
    SELECT f.image_id, f.distance
    FROM (
        SELECT w.image_id, w.embedding <=> q.embedding AS distance
        FROM (SELECT e.image_id, e.embedding FROM {table} AS e ORDER BY {nearest_first} LIMIT {candidates}) AS w
        WHERE (w.image_id IN (SELECT image_id FROM candidate)) IS TRUE AND w.image_id <> q.image_id
          AND (
              %(same_patient)s OR w.image_id <> ALL(ARRAY(SELECT image_id FROM candidate WHERE patient_id = q.patient_id))
          )
        LIMIT {kept}
    ) AS f
    ORDER BY f.distance, f.image_id
    LIMIT %(k)s
) AS n INNER JOIN candidate AS c ON c.image_id = n.image_id
"""

_SHORT: LiteralString = """
SELECT r.query_image_id
FROM cbir.search_result AS r
INNER JOIN query AS q ON q.image_id = r.query_image_id
WHERE r.run_id = %(run_id)s AND r.query_image_id = ANY(%(queries)s::bigint[]) AND cardinality(r.neighbour_ids) < least(
    %(k)s::bigint,
    (SELECT count(*) FROM candidate) - (
        SELECT count(*) FROM candidate AS own
        WHERE own.image_id = q.image_id OR (NOT %(same_patient)s AND own.patient_id = q.patient_id)
    )
)
"""

_STORE: LiteralString = """
INSERT INTO cbir.search_result (run_id, query_image_id, label_id, relevant_count, neighbour_ids, distances, hits)
SELECT %(run_id)s, q.image_id, CASE WHEN %(single)s THEN q.label_ids[1] END,
       r.relevant - (
           SELECT count(*) FROM candidate AS own
           WHERE (own.image_id = q.image_id OR (NOT %(same_patient)s AND own.patient_id = q.patient_id))
             AND own.label_ids && q.label_ids
       ),
       coalesce(found.ids, '{{}}'), coalesce(found.distances, '{{}}'), coalesce(found.hits, '{{}}')
FROM (
    SELECT e.image_id, e.embedding, s.label_ids, s.patient_id
    FROM {table} AS e
    INNER JOIN query AS s ON s.image_id = e.image_id
    WHERE e.image_id = ANY(%(queries)s::bigint[])
) AS q
INNER JOIN relevant AS r ON r.label_ids = q.label_ids
{found}
-- A dead process may have stored them: its last commit can arrive late.
ON CONFLICT (run_id, query_image_id) DO NOTHING
"""

_FOUND_FOR_EACH: LiteralString = """
CROSS JOIN LATERAL (
    SELECT array_agg(image_id ORDER BY distance, image_id) AS ids,
           array_agg(distance::real ORDER BY distance, image_id) AS distances,
           array_agg(hits ORDER BY distance, image_id) AS hits
    FROM (
        SELECT image_id, distance,
               (count(*) FILTER (WHERE label_ids && q.label_ids) OVER (ORDER BY distance, image_id))::smallint AS hits
        FROM ({nearest}) AS nearest
    ) AS ranked
) AS found
"""

# For each set of labels of a query, the number of candidates that share one of them. Sets are few, images many.
_RELEVANT: LiteralString = """
CREATE TEMPORARY TABLE relevant ON COMMIT DROP AS
WITH held AS (SELECT label_ids, count(*) AS images FROM candidate GROUP BY label_ids)
SELECT asked.label_ids, coalesce(sum(held.images) FILTER (WHERE held.label_ids && asked.label_ids), 0)::bigint AS relevant
FROM (SELECT DISTINCT label_ids FROM query) AS asked
LEFT JOIN held ON held.label_ids && asked.label_ids
GROUP BY asked.label_ids
"""

_CARRIED: LiteralString = """
CREATE TEMPORARY TABLE carried ON COMMIT DROP AS
SELECT label_id, count(*) AS images FROM candidate CROSS JOIN LATERAL unnest(label_ids) AS l (label_id) GROUP BY label_id
"""

_STORE_LABELS: LiteralString = """
INSERT INTO cbir.search_result_label (run_id, query_image_id, label_id, relevant_count, hits)
SELECT r.run_id, r.query_image_id, asked.label_id,
       coalesce((SELECT images FROM carried WHERE label_id = asked.label_id), 0) - (
           SELECT count(*) FROM candidate AS own
           WHERE (own.image_id = q.image_id OR (NOT %(same_patient)s AND own.patient_id = q.patient_id))
             AND own.label_ids @> ARRAY[asked.label_id]
       ),
       found.hits
FROM cbir.search_result AS r
INNER JOIN query AS q ON q.image_id = r.query_image_id
CROSS JOIN LATERAL unnest(q.label_ids) AS asked (label_id)
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(hits ORDER BY rank), '{}') AS hits
    FROM (
        SELECT n.rank,
               (count(*) FILTER (WHERE c.label_ids @> ARRAY[asked.label_id]) OVER (ORDER BY n.rank))::smallint AS hits
        FROM unnest(r.neighbour_ids) WITH ORDINALITY AS n (image_id, rank)
        INNER JOIN candidate AS c ON c.image_id = n.image_id
    ) AS ranked
) AS found
WHERE r.run_id = %(run_id)s AND r.query_image_id = ANY(%(queries)s::bigint[])
ON CONFLICT (run_id, query_image_id, label_id) DO NOTHING
"""

_RECALL: LiteralString = """
SELECT coalesce(avg(share), 0), count(*) FILTER (WHERE share = 0)
FROM (
    SELECT (SELECT count(*) FROM unnest(r.distances[1:%(k)s]) AS d (distance) WHERE d.distance <= true_k.farthest + 1e-6)
           ::double precision / nullif(true_k.existing, 0) AS share
    FROM cbir.search_result AS r
    INNER JOIN (
        SELECT e.image_id, e.embedding, s.patient_id
        FROM {table} AS e INNER JOIN query AS s ON s.image_id = e.image_id
    ) AS q ON q.image_id = r.query_image_id
    CROSS JOIN LATERAL (
        SELECT max(distance) AS farthest, count(*) AS existing FROM ({nearest}) AS nearest
    ) AS true_k
    WHERE r.run_id = %(run_id)s AND r.query_image_id = ANY(%(queries)s::bigint[])
) AS shares
"""


def _fingerprint() -> sql.Composed:
    return sql.SQL(_FINGERPRINT).format(hash=sql.SQL(CONTENT_HASH), catalogue_hash=sql.SQL(CATALOGUE_HASH))


@dataclass(frozen=True, slots=True)
class Search:
    """One run's search. ``build`` is the index to use, or None to compare with every image."""

    task: Selection
    run_id: int
    k: int
    indexed: int
    """Number of images to search."""
    build: IndexBuild | None
    fingerprint: str
    """Fingerprint of the images that take part; see ``Counts``."""

    def prepare(self, connection: psycopg.Connection) -> None:
        """Create the temporary tables and settings of the statements, in an open transaction.

        :raises ChangedError: when the images that take part have changed since the run began.
        """
        parameters = parameters_of(self.task)
        self._apply_settings(connection)
        connection.execute(sql.SQL(_CANDIDATES).format(table=table_of(self.task)), parameters)
        connection.execute("CREATE UNIQUE INDEX ON pg_temp.candidate (image_id)")
        connection.execute(sql.SQL(_QUERIES).format(table=table_of(self.task)), parameters)
        if one_value(connection.execute(_fingerprint())) != self.fingerprint:
            raise ChangedError
        connection.execute("CREATE INDEX ON pg_temp.candidate (patient_id)")
        connection.execute("ANALYZE pg_temp.candidate")
        connection.execute("ANALYZE pg_temp.query")
        connection.execute(_RELEVANT)
        if self.task.protocol != "paper":
            connection.execute(_CARRIED)
        connection.execute("ANALYZE pg_temp.relevant")

    def store(self, connection: psycopg.Connection, queries: Sequence[int]) -> None:
        """Find and store the neighbours of some queries. Queries for which the index finds too few are compared
        exactly.
        """
        parameters = self._parameters(queries)
        connection.execute(self._statement(self._for_each(self._nearest(connection))), parameters)
        if self.build is not None:
            short = [row[0] for row in connection.execute(_SHORT, parameters)]
            if short:
                connection.execute(
                    "DELETE FROM cbir.search_result WHERE run_id = %s AND query_image_id = ANY(%s::bigint[])",
                    [self.run_id, short],
                )
                connection.execute(self._statement(self._for_each(self._exact())), parameters | {"queries": short})
        self._store_labels(connection, parameters)

    def store_found(self, connection: psycopg.Connection, found: NearestImages) -> None:
        """Store neighbours that were found outside the server."""
        send_found(connection, found)
        parameters = self._parameters(found.queries.tolist())
        connection.execute(self._statement(sql.SQL(JOIN_FOUND).format()), parameters)
        self._store_labels(connection, parameters)

    def recall(self, connection: psycopg.Connection, nearest: NearestImages) -> tuple[float, int]:
        """Return the share of the true nearest that are stored, and the number of queries without any.

        A tie with the farthest of them counts as found.

        :param nearest: the true nearest.
        """
        exists = np.arange(nearest.ids.shape[1]) < nearest.counts[:, None]
        list_images(connection, np.repeat(nearest.queries, nearest.counts), nearest.ids[exists])
        statement = sql.SQL(_RECALL).format(
            table=table_of(self.task), nearest=sql.SQL(AMONG_LISTED).format(table=table_of(self.task))
        )
        recall, without_any = one_row(connection.execute(statement, self._parameters(nearest.queries.tolist())))
        return float(recall), int(without_any)

    def _parameters(self, queries: Sequence[int]) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "queries": list(queries),
            "k": self.k,
            "same_patient": self.task.same_patient,
            "single": self.task.protocol == "paper",
        }

    def _store_labels(self, connection: psycopg.Connection, parameters: Mapping[str, Any]) -> None:
        if self.task.protocol != "paper":
            connection.execute(_STORE_LABELS, parameters)

    def _statement(self, found: sql.Composed) -> sql.Composed:
        return sql.SQL(_STORE).format(table=table_of(self.task), found=found)

    def _for_each(self, nearest: sql.Composed) -> sql.Composed:
        return sql.SQL(_FOUND_FOR_EACH).format(nearest=nearest)

    def _exact(self) -> sql.Composed:
        return sql.SQL(_EXACT).format(table=table_of(self.task))

    def _nearest(self, connection: psycopg.Connection) -> sql.Composed:
        if self.build is None:
            return self._exact()
        walk = self._walk(connection, self.build)
        return sql.SQL(_APPROXIMATE).format(
            table=table_of(self.task),
            nearest_first=walk.nearest_first,
            candidates=sql.Literal(walk.candidates),
            kept=sql.Literal(walk.kept),
        )

    def _walk(self, connection: psycopg.Connection, build: IndexBuild) -> Walk:
        """Plan the walk. The share of images to find is that of the index split, and never all: the query is
        excluded.
        """
        share = min(self.indexed / max(1, build.rows_indexed), 0.9999)
        dim = self.task.encoder.dim
        return index_walk(connection, build.method, build, rows=build.rows_indexed, dim=dim, k=self.k, share=share)

    def _apply_settings(self, connection: psycopg.Connection) -> None:
        add_extension_to_search_path(connection)
        apply_settings(connection, self._walk(connection, self.build).settings if self.build else {"jit": "off"})
