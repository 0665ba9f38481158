"""Selects the images of a linear probe, reads their vectors into a file, and stores the outcome."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, LiteralString

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql
from psycopg.types.json import Jsonb

from cbirdb.db.embeddings import StoredEncoder
from cbirdb.db.evaluation.selection import CONTENT_HASH
from cbirdb.db.extension import add_extension_to_search_path
from cbirdb.db.read_embeddings import read_embeddings
from cbirdb.db.rows import one_row, one_value
from cbirdb.db.schema_name import SCHEMA
from cbirdb.errors import InputError
from cbirdb.progress import Task
from cbirdb.records import Split

Ids = NDArray[np.int64]

# One table per transaction serves all its statements.
_MEMBERS: LiteralString = """
CREATE TEMPORARY TABLE probe_member ON COMMIT DROP AS
SELECT s.image_id, s.patient_id, ARRAY[s.label_id] AS label_ids, s.label_id, s.split, s.in_later_split,
       e.xmin AS version, e.image_id IS NOT NULL AS encoded, e.image_id IS NOT NULL AND (%(same_patient)s OR NOT s.in_later_split) AS taken
FROM cbir_internal.probe_image(%(datasets)s, %(split_seed)s) AS s
LEFT JOIN {table} AS e ON e.image_id = s.image_id
"""

_COUNTS: LiteralString = """
SELECT count(*) FILTER (WHERE taken AND split = 'train'), count(*) FILTER (WHERE taken AND split = 'val'),
       count(*) FILTER (WHERE taken AND split = 'test'),
       (
           SELECT count(*)
           FROM cbir.image AS i
           INNER JOIN cbir.dataset AS d ON d.dataset_id = i.dataset_id
           LEFT JOIN cbir.patient AS p ON p.patient_id = i.patient_id
           WHERE (%(datasets)s::text[] IS NULL OR d.name = ANY(%(datasets)s))
             AND cbir_internal.evaluation_split(d.reader, i.split, p.pseudonym, %(split_seed)s) IN ('train', 'val', 'test')
       ) - count(*),
       count(*) FILTER (WHERE NOT encoded), count(*) FILTER (WHERE encoded AND in_later_split),
       count(*) FILTER (WHERE taken AND patient_id IS NULL),
       ARRAY(
           SELECT d.name FROM cbir.dataset AS d WHERE d.dataset_id IN (
               SELECT i.dataset_id FROM pg_temp.probe_member AS m INNER JOIN cbir.image AS i ON i.image_id = m.image_id
               WHERE m.taken
           ) ORDER BY d.name
       ),
       concat_ws(
           ' ', coalesce(sum({hash}) FILTER (WHERE taken AND split = 'train'), 0),
           coalesce(sum({hash}) FILTER (WHERE taken AND split = 'val'), 0),
           coalesce(sum({hash}) FILTER (WHERE taken AND split = 'test'), 0)
       )
FROM pg_temp.probe_member
"""

# As the bytes of numbers, which NumPy reads directly.
_LABELS: LiteralString = """
SELECT coalesce(string_agg(int8send(image_id), '' ORDER BY image_id), ''),
       coalesce(string_agg(int8send(label_id), '' ORDER BY image_id), '')
FROM pg_temp.probe_member WHERE taken AND split = %s
"""

_VECTORS: LiteralString = """
SELECT e.image_id, e.embedding FROM {table} AS e
INNER JOIN pg_temp.probe_member AS m ON m.image_id = e.image_id AND m.taken AND m.split = {split} ORDER BY e.image_id
"""


@dataclass(frozen=True, slots=True)
class Members:
    """Numbers of a linear probe's images."""

    train: int
    val: int
    test: int
    left_out: int
    """Images of the splits with no or several labels."""
    not_encoded: int
    shared: int
    """Train and val images whose patient has images in a later split."""
    without_patient: int
    datasets: Sequence[str]
    fingerprint: str
    """Fingerprint that is constant while the same images with the same patients, labels and embeddings take part."""

    def of(self, split: Split) -> int:
        """Return the number of images of a split."""
        return {"train": self.train, "val": self.val, "test": self.test}[split]


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Images of one split, ordered by id; both of shape (n,)."""

    ids: Ids
    labels: Ids
    """Ids of their labels."""


def select_members(
    connection: psycopg.Connection, encoder: StoredEncoder, datasets: Sequence[str], split_seed: int, same_patient: bool
) -> Members:
    """Select and count a probe's images; a temporary table holds them until the end of the transaction."""
    values = {"datasets": list(datasets) or None, "split_seed": split_seed, "same_patient": same_patient}
    connection.execute(sql.SQL(_MEMBERS).format(table=_table(encoder)), values)
    connection.execute("ANALYZE pg_temp.probe_member")
    return Members(*one_row(connection.execute(sql.SQL(_COUNTS).format(hash=sql.SQL(CONTENT_HASH)), values)))


def read_labels(connection: psycopg.Connection, split: Split) -> LabelledImages:
    """Return the selected images of a split, with their labels."""
    ids, labels = one_row(connection.execute(_LABELS, [split], binary=True))
    return LabelledImages(*(np.frombuffer(column, ">i8").astype(np.int64) for column in (ids, labels)))


@contextmanager
def vectors_in_file(
    connection: psycopg.Connection, encoder: StoredEncoder, split: Split, count: int, task: Task
) -> Iterator[NDArray[np.float64]]:
    """Stream the vectors of a split into a temporary file, and map it while the block runs.

    Read-only and backed by a file, its pages leave memory when others need it. The vectors have length 1 and are ordered
    by image id. Double precision: with single, L-BFGS stops before it has converged.

    :returns: shape (count, dim).
    :raises InputError: when the file cannot be written.
    """
    query = sql.SQL(_VECTORS).format(table=_table(encoder), split=sql.Literal(split))
    with tempfile.TemporaryFile(prefix="cbirdb-", buffering=0) as file:
        for ids, vectors in read_embeddings(connection, query, encoder.dim, encoder.precision):
            exact = vectors.astype(np.float64)
            exact /= np.linalg.norm(exact, axis=1, keepdims=True)
            try:
                # Not through the mapping: on a full disk that would kill the process.
                rest = memoryview(exact.tobytes())
                while rest:
                    rest = rest[file.write(rest) :]
            except OSError as error:
                size = count * encoder.dim * 8 / 2**20
                raise InputError(
                    f"The vectors of {split} ({size:,.0f} MB) cannot be written into {tempfile.gettempdir()}: {error.strerror}.",
                    hint="Set TMPDIR to a folder with more room.",
                ) from error
            task.advance(len(ids))
        yield np.memmap(file, np.float64, "r", shape=(count, encoder.dim))


def prepare_reading(connection: psycopg.Connection) -> None:
    """Make a transaction read one state of the database, in which the vectors' type is known."""
    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    add_extension_to_search_path(connection)


def store_probe(
    connection: psycopg.Connection,
    columns: Mapping[str, Any],
    classes: Sequence[tuple[int, int]],
    test: LabelledImages,
    predicted: Ids,
    probabilities: NDArray[np.float64],
) -> int:
    """Store a probe, its classes and its predictions; return its id. Runs in the caller's transaction.

    :param columns: of ``cbir.probe_run``; a mapping or a list of mappings becomes JSON.
    :param classes: label ids with their number of training images, in the order of the probabilities.
    :param predicted: label ids, shape (n,).
    :param probabilities: shape (n, classes).
    """
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    places = sql.SQL(", ").join(map(sql.Placeholder, columns))
    query = sql.SQL("INSERT INTO cbir.probe_run ({}) VALUES ({}) RETURNING probe_id").format(names, places)
    values = {name: Jsonb(value) if name in ("candidates", "versions") else value for name, value in columns.items()}
    probe_id = int(one_value(connection.execute(query, values)))
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO cbir.probe_class (probe_id, label_id, position, train_images) VALUES (%s, %s, %s, %s)",
            [(probe_id, label, position, images) for position, (label, images) in enumerate(classes, start=1)],
        )
        # COPY goes into no table under row-level security.
        cursor.execute(
            "CREATE TEMPORARY TABLE predicted (image_id bigint, label_id bigint, predicted_label_id bigint,"
            " probabilities double precision[]) ON COMMIT DROP"
        )
        with cursor.copy("COPY pg_temp.predicted FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int8", "int8", "int8", "float8[]"])
            for row in zip(test.ids.tolist(), test.labels.tolist(), predicted.tolist(), probabilities, strict=True):
                copy.write_row((*row[:3], row[3].tolist()))
        cursor.execute(
            "INSERT INTO cbir.probe_prediction (probe_id, image_id, label_id, predicted_label_id, probabilities)"
            " SELECT %s, p.* FROM pg_temp.predicted AS p",
            [probe_id],
        )
    return probe_id


def label_names(connection: psycopg.Connection, label_ids: Sequence[int]) -> list[str]:
    """Return the names of labels, in alphabetical order."""
    found = connection.execute(
        "SELECT name FROM cbir.label WHERE label_id = ANY(%s::bigint[]) ORDER BY name", [list(label_ids)]
    )
    return [name for (name,) in found]


def _table(encoder: StoredEncoder) -> sql.Identifier:
    return sql.Identifier(SCHEMA, encoder.table)
