"""Which images take part in an evaluation: whose neighbours are looked for, and among which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, LiteralString

import psycopg
from psycopg import sql

from cbirdb.db.embeddings import StoredEncoder
from cbirdb.db.schema_name import SCHEMA
from cbirdb.errors import InputError

# Summed up, for a fingerprint of all that is searched with and searched through. An embedding's version is the id of the
# transaction that wrote it: it changes whenever the vector does.
CONTENT_HASH: LiteralString = "hashtextextended(concat_ws('/', image_id, patient_id, label_ids, version), 0)"
# The same without what a restored dump changes; cbir_internal.indexed_image compares it, long after the run.
CATALOGUE_HASH: LiteralString = "hashtextextended(concat_ws('/', image_id, patient_id, label_ids), 0)"


class ChangedError(InputError):
    """What takes part in an evaluation is not what it began with."""

    def __init__(self) -> None:
        super().__init__(
            "Images, labels or embeddings of these splits came or went while the evaluation was running.",
            hint="Wait until nothing changes them any more, then run the same command again: it starts over.",
        )


@dataclass(frozen=True, slots=True)
class Selection:
    """Whose neighbours are looked for, and among which images."""

    encoder: StoredEncoder
    datasets: tuple[str, ...]
    query_split: str
    index_split: str
    protocol: Literal["paper", "any-label"] = "paper"
    split_seed: int = 0
    same_patient: bool = True


@dataclass(frozen=True, slots=True)
class Counts:
    """How many images a selection has."""

    queries: int
    indexed: int
    left_out: int
    not_encoded: int
    fingerprint: str
    """The same as long as the same images with the same patients, labels and embeddings take part: of the queries, of the
    indexed images, and of these without their embeddings."""


def count_selection(connection: psycopg.Connection, task: Selection) -> Counts:
    """Count the images that take part in an evaluation and those that do not, with the reason."""
    query = sql.SQL(
        """
        SELECT count(*) FILTER (WHERE encoded AND is_query),
               count(*) FILTER (WHERE encoded AND is_indexed),
               (
                   SELECT count(*)
                   FROM cbir.image AS i
                   INNER JOIN cbir.dataset AS d ON d.dataset_id = i.dataset_id
                   LEFT JOIN cbir.patient AS p ON p.patient_id = i.patient_id
                   WHERE (%(datasets)s::text[] IS NULL OR d.name = ANY(%(datasets)s))
                     AND cbir_internal.evaluation_split(d.reader, i.split, p.pseudonym, %(split_seed)s)
                         IN (%(query_split)s, %(index_split)s)
               ) - count(*),
               count(*) FILTER (WHERE NOT encoded),
               concat_ws(
                   ' ',
                   coalesce(sum({hash}) FILTER (WHERE encoded AND is_query), 0),
                   coalesce(sum({hash}) FILTER (WHERE encoded AND is_indexed), 0),
                   coalesce(sum({catalogue_hash}) FILTER (WHERE encoded AND is_indexed), 0)
               )
        FROM (
            SELECT s.image_id, s.patient_id, s.label_ids, s.is_query, s.is_indexed, e.xmin AS version,
                   e.image_id IS NOT NULL AS encoded
            FROM (
                SELECT image_id, patient_id, label_ids, TRUE AS is_query,
                       %(query_split)s::text = %(index_split)s::text AS is_indexed
                FROM cbir_internal.protocol_image(%(protocol)s, %(query_split)s, %(datasets)s, %(split_seed)s)
                UNION ALL
                SELECT image_id, patient_id, label_ids, FALSE, TRUE
                FROM cbir_internal.protocol_image(%(protocol)s, %(index_split)s, %(datasets)s, %(split_seed)s)
                WHERE %(query_split)s::text <> %(index_split)s::text
            ) AS s
            LEFT JOIN {table} AS e ON e.image_id = s.image_id
        ) AS labelled
        """
    ).format(table=table_of(task), hash=sql.SQL(CONTENT_HASH), catalogue_hash=sql.SQL(CATALOGUE_HASH))
    row = connection.execute(query, parameters_of(task)).fetchone()
    return Counts(*row) if row else Counts(0, 0, 0, 0, "")


def dataset_names(connection: psycopg.Connection, task: Selection) -> list[str]:
    """The datasets that take part: those with images of the two splits that have an embedding."""
    query = sql.SQL(
        """
        SELECT d.name FROM cbir.dataset AS d
        WHERE (%(datasets)s::text[] IS NULL OR d.name = ANY(%(datasets)s)) AND EXISTS (
            SELECT FROM cbir.image AS i
            INNER JOIN {table} AS e ON e.image_id = i.image_id
            LEFT JOIN cbir.patient AS p ON p.patient_id = i.patient_id
            WHERE i.dataset_id = d.dataset_id
              AND cbir_internal.evaluation_split(d.reader, i.split, p.pseudonym, %(split_seed)s)
                  IN (%(query_split)s, %(index_split)s)
        )
        ORDER BY d.name
        """
    ).format(table=table_of(task))
    return [row[0] for row in connection.execute(query, parameters_of(task))]


def query_ids(connection: psycopg.Connection, task: Selection) -> list[int]:
    """The ids of the images that are asked for, in order."""
    query = sql.SQL(
        "SELECT s.image_id FROM cbir_internal.protocol_image(%(protocol)s, %(query_split)s, %(datasets)s, %(split_seed)s) AS s"
        " INNER JOIN {table} AS e ON e.image_id = s.image_id ORDER BY s.image_id"
    ).format(table=table_of(task))
    return [row[0] for row in connection.execute(query, parameters_of(task))]


def count_short(connection: psycopg.Connection, task: Selection, run_id: int, k: int) -> int:
    """Queries for which fewer neighbours were stored than they may have: all indexed images but the query itself and,
    where that is the protocol, its patient's.
    """
    suspects = connection.execute(
        "SELECT EXISTS (SELECT FROM cbir.search_result WHERE run_id = %s AND cardinality(neighbour_ids) < %s)",
        [run_id, k],
    ).fetchone()
    if suspects == (False,):
        return 0
    query = sql.SQL(
        """
        WITH indexed AS (
            SELECT s.image_id, s.patient_id
            FROM cbir_internal.protocol_image(%(protocol)s, %(index_split)s, %(datasets)s, %(split_seed)s) AS s
            INNER JOIN {table} AS e ON e.image_id = s.image_id
        ),
        of_patient AS (SELECT patient_id, count(*) AS images FROM indexed WHERE patient_id IS NOT NULL GROUP BY patient_id)
        SELECT count(*)
        FROM cbir.search_result AS r
        INNER JOIN cbir.image AS q ON q.image_id = r.query_image_id
        LEFT JOIN of_patient AS own ON own.patient_id = q.patient_id AND NOT %(same_patient)s
        WHERE r.run_id = %(run_id)s AND cardinality(r.neighbour_ids) < least(
            %(k)s::bigint,
            (SELECT count(*) FROM indexed) - coalesce(own.images, CASE WHEN %(among_itself)s THEN 1 ELSE 0 END)
        )
        """
    ).format(table=table_of(task))
    among_itself = task.query_split == task.index_split
    values = {"run_id": run_id, "k": k, "same_patient": task.same_patient, "among_itself": among_itself}
    row = connection.execute(query, {**parameters_of(task), **values}).fetchone()
    return int(row[0]) if row else 0


def table_of(task: Selection) -> sql.Identifier:
    """The encoder's embedding table."""
    return sql.Identifier(SCHEMA, task.encoder.table)


def parameters_of(task: Selection) -> dict[str, Any]:
    """What the statements on a selection take."""
    return {
        "query_split": task.query_split,
        "index_split": task.index_split,
        "datasets": list(task.datasets) or None,
        "protocol": task.protocol,
        "split_seed": task.split_seed,
    }
