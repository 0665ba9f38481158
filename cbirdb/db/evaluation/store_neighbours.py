"""Stores neighbours that were found outside the server, and reads the server's facts about images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from cbirdb.db.copy import HEADER, TRAILER
from cbirdb.db.rows import one_row, one_value

Ids = NDArray[np.int64]

IMAGES_PER_STATEMENT = 50_000
_NO_PATIENT = -1
# Element types of arrays by their numbers in pg_type, with the layout of an element in binary COPY.
_BIGINT, _REAL, _SMALLINT = (20, ">i8"), (700, ">f4"), (21, ">i2")

# Sets of labels are few, images many: ask the server once per pair of sets if they share a label.
_LABEL_SETS: LiteralString = """
CREATE TEMPORARY TABLE label_set ON COMMIT DROP AS
SELECT row_number() OVER () - 1 AS number, label_ids, bool_or(is_asked) AS is_asked, bool_or(NOT is_asked) AS is_held
FROM (SELECT label_ids, TRUE AS is_asked FROM query UNION ALL SELECT label_ids, FALSE FROM candidate) AS held
GROUP BY label_ids
"""

_OVERLAPS: LiteralString = """
SELECT asked.number, array_agg(held.number)
FROM label_set AS asked INNER JOIN label_set AS held ON held.label_ids && asked.label_ids
WHERE asked.is_asked AND held.is_held
GROUP BY asked.number
"""

_DESCRIBE: LiteralString = """
SELECT array_agg(coalesce(p.patient_id, {nobody}) ORDER BY p.image_id), array_agg(s.number ORDER BY p.image_id)
FROM {part} AS p INNER JOIN label_set AS s ON s.label_ids = p.label_ids
-- Cast: the driver sends small numbers as integers, and the server hashes only a list of the column's own type.
WHERE p.image_id = ANY(%s::bigint[])
"""

# The statement that stores results joins it to a query's other columns.
JOIN_FOUND: LiteralString = "LEFT JOIN pg_temp.found ON found.query_image_id = q.image_id"


@dataclass(frozen=True, slots=True)
class NearestImages:
    """The nearest images of some queries, nearest first."""

    queries: Ids
    """Shape (m,)."""
    ids: Ids
    """Shape (m, k)."""
    distances: NDArray[np.float32]
    """Cosine distances, shape (m, k)."""
    hits: NDArray[np.int16]
    """Relevant images among the first n, shape (m, k)."""
    counts: NDArray[np.int64]
    """Number of neighbours found, at most k, shape (m,)."""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """Patients and sets of labels of images, ordered by id, each once; all of shape (n,)."""

    ids: Ids
    patients: Ids
    """Patients' ids; negative: unknown."""
    label_sets: Ids
    """Numbers of the images' sets of labels, from ``number_label_sets``."""

    def positions(self, ids: Ids) -> Ids:
        """Return the positions of some of these images, of any shape."""
        return np.searchsorted(self.ids, ids)


def number_label_sets(connection: psycopg.Connection) -> NDArray[np.bool_]:
    """Number each set of labels that an image has; return which sets share a label.

    The temporary tables of a prepared search must exist.

    :returns: shape (sets, sets), True if images with the second set are relevant for a query with the first.
    """
    connection.execute(_LABEL_SETS)
    connection.execute("ANALYZE pg_temp.label_set")
    count = int(one_value(connection.execute("SELECT count(*) FROM label_set")))
    overlaps = np.zeros((count, count), np.bool_)
    # Row by row: if images have several labels, pairs may be millions.
    with connection.cursor(binary=True) as cursor:
        for asked, held in cursor.stream(_OVERLAPS):
            overlaps[asked, held] = True
    return overlaps


def read_image_facts(connection: psycopg.Connection, part: LiteralString, ids: Ids) -> ImageFacts:
    """Return patients and sets of labels of images in one of a prepared search's temporary tables.

    :param ids: shape (n,), in order, each once.
    """
    statement = sql.SQL(_DESCRIBE).format(part=sql.Identifier("pg_temp", part), nobody=sql.Literal(_NO_PATIENT))
    patients, label_sets = np.empty(len(ids), np.int64), np.empty(len(ids), np.int64)
    for start in range(0, len(ids), IMAGES_PER_STATEMENT):
        some = slice(start, start + IMAGES_PER_STATEMENT)
        patients[some], label_sets[some] = one_row(connection.execute(statement, [ids[some].tolist()], binary=True))
    return ImageFacts(ids, patients, label_sets)


def send_found(connection: psycopg.Connection, found: NearestImages) -> None:
    """Replace the contents of the temporary table that ``JOIN_FOUND`` joins."""
    connection.execute(
        "CREATE TEMPORARY TABLE IF NOT EXISTS found"
        " (query_image_id bigint NOT NULL, ids bigint[], distances real[], hits smallint[]) ON COMMIT DROP"
    )
    connection.execute("TRUNCATE pg_temp.found")
    with connection.cursor() as cursor, cursor.copy("COPY pg_temp.found FROM STDIN (FORMAT binary)") as copy:
        copy.write(HEADER)
        for count in np.unique(found.counts).tolist():
            copy.write(_encode(found, found.counts == count, count))
        copy.write(TRAILER)
    connection.execute("ANALYZE pg_temp.found (query_image_id)")


def _encode(found: NearestImages, selected: NDArray[np.bool_], count: int) -> bytes:
    """Encode rows of binary COPY. Rows with lists of one length have one size, and so form an array."""
    arrays: Sequence[tuple[str, NDArray[Any], int, str]] = (
        ("ids", found.ids, *_BIGINT), ("distances", found.distances, *_REAL), ("hits", found.hits, *_SMALLINT)
    )  # fmt: skip
    layout: list[tuple[str, Any]] = [("fields", ">i2"), ("query_bytes", ">i4"), ("query", ">i8")]
    for name, _, _, element in arrays:
        elements = np.dtype([("bytes", ">i4"), ("value", element)])
        head = [(part, ">i4") for part in ("dimensions", "nulls", "type", "count", "first")]
        layout += [(f"{name}_bytes", ">i4"), (name, np.dtype([*head, ("elements", elements, (count,))]))]
    rows = np.zeros(int(selected.sum()), np.dtype(layout))
    rows["fields"], rows["query_bytes"], rows["query"] = 1 + len(arrays), 8, found.queries[selected]
    for name, values, type_number, _ in arrays:
        array = rows[name]
        rows[f"{name}_bytes"] = array.dtype.itemsize
        array["dimensions"], array["type"], array["count"], array["first"] = 1, type_number, count, 1
        array["elements"]["bytes"] = array["elements"]["value"].dtype.itemsize
        array["elements"]["value"] = values[selected, :count]
    return rows.tobytes()
