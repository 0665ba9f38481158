"""Manages encoders in the database, their embedding tables, and the images that still lack an embedding."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from cbirdb.db.lock_waits import LockWaits
from cbirdb.db.schema_name import SCHEMA
from cbirdb.errors import EncoderError, InputError, SchemaError, UnknownNameError
from cbirdb.names import printable
from cbirdb.records import WHOLE, Precision, Shard


@dataclass(frozen=True, slots=True)
class StoredEncoder:
    """A row of ``cbir.encoder``."""

    encoder_id: int
    name: str
    table: str
    dim: int
    precision: Precision
    weights_sha256: str | None
    preprocessing_sha256: str | None
    spec: Mapping[str, Any]
    provenance: Mapping[str, Any]
    golden_embedding: Sequence[float] | None
    rendering_sha256: str | None = None
    """How DICOM was shown to it; None: no DICOM image has been encoded."""


@dataclass(frozen=True, slots=True)
class PendingImage:
    """An image that lacks an embedding, and the folder that its source is relative to."""

    image_id: int
    dataset_id: int
    dataset: str
    source: str
    root: str
    sha256: bytes | None
    """Hash of the file's content in the catalogue; None if the file was not read."""
    damaged: bool
    """True if the image was accepted although it is damaged."""
    missing: Sequence[bool]
    """For each requested encoder, True if the image lacks its embedding."""
    frame: int = 0
    sop_uid: str | None = None


ENCODER_NAME = re.compile(r"(?=[^@]*[a-z0-9])[a-z0-9.-]{1,40}(@[0-9a-f]{8})?")
"""Valid names, as in ``cbir_internal.check_encoder_name``."""


def table_name(encoder: str) -> str:
    """Return an encoder's table: ``tiny-image`` -> ``embedding_tiny_image``, as ``cbir_internal.register_encoder`` derives it.

    :raises InputError: when no encoder can have that name.
    """
    if not ENCODER_NAME.fullmatch(encoder):
        raise InputError(
            f"'{printable(encoder)}' is not a valid encoder name.",
            hint="Use 1 to 40 of the characters a-z, 0-9, '-' and '.'. Optionally add '@' and 8 of 0-9, a-f.",
        )
    return "embedding_" + re.sub(r"[^a-z0-9]+", "_", encoder).strip("_")


def find_encoder(connection: psycopg.Connection, name: str) -> StoredEncoder | None:
    """Return the encoder of that name in this database, or None."""
    row = connection.execute(
        "SELECT encoder_id, encoder, table_name, dim, precision, weights_sha256, preprocessing_sha256, spec, provenance,"
        " golden_embedding, rendering_sha256 FROM cbir.encoder_overview WHERE encoder = %s",
        [name],
    ).fetchone()
    return StoredEncoder(*row) if row else None


def stored_tables(connection: psycopg.Connection) -> dict[str, str]:
    """Return the embedding tables by the names of their encoders."""
    return dict(connection.execute("SELECT encoder, table_name FROM cbir.encoder_overview").fetchall())


def get_encoder(connection: psycopg.Connection, name: str, *, also_known: Sequence[str] = ()) -> StoredEncoder:
    """Return the encoder of that name in this database.

    :param also_known: valid names without embeddings in this database.
    :raises UnknownNameError: when no encoder has that name.
    :raises InputError: when the encoder is known but has no embeddings here yet.
    """
    found = find_encoder(connection, name)
    if found is not None:
        return found
    if name in also_known:
        raise InputError(
            f"There are no embeddings of '{name}' in this database yet.", hint=f"Run: cbirdb encode -e {name}"
        )
    stored = [row[0] for row in connection.execute("SELECT encoder FROM cbir.encoder_overview").fetchall()]
    raise UnknownNameError("encoder", name, sorted({*stored, *also_known}))


def register_encoder(
    connection: psycopg.Connection,
    name: str,
    *,
    dim: int,
    precision: Precision | None,
    spec: Mapping[str, Any],
    provenance: Mapping[str, Any],
    golden_embedding: Sequence[float] | None = None,
) -> StoredEncoder:
    """Create the encoder's row and embedding table, or check that the existing ones are of the same encoder.

    :param precision: None: half for a new encoder, the stored precision for an existing one.
    :param golden_embedding: the unit vector of the fixed picture.
    :raises InputError: when the stored dimension or precision differs.
    :raises EncoderError: when the stored vectors came from other weights, preprocessing or number format.
    """
    table = table_name(name)
    described = [provenance.get("weights_sha256"), provenance.get("preprocessing_sha256")]
    golden = list(golden_embedding) if golden_embedding is not None else None
    with connection.transaction():
        connection.execute(
            "SELECT cbir_internal.register_encoder(%s, %s, %s, %s, %s, %s, %s, %s, %s::real[])",
            [
                name,
                dim,
                precision or "half",
                spec.get("licence"),
                *described,
                Jsonb(dict(spec)),
                Jsonb(dict(provenance)),
                golden,
            ],
        )
        stored = find_encoder(connection, name)
        if stored is None:
            raise InputError(
                f"The encoder '{name}' would share the table {table} with another one.",
                hint="Choose a name that differs in more than punctuation.",
            )
        _check_same(stored, dim, precision, provenance)
        if stored.golden_embedding is None and golden is not None:
            # Its vectors were imported so far; this is the first time that it computes some itself.
            connection.execute(
                "SELECT cbir_internal.describe_encoder(%s, %s, %s, %s, %s::real[])",
                [name, *described, Jsonb(dict(provenance)), golden],
            )
        else:
            _note_runtime(connection, stored, provenance)
    return stored


def _note_runtime(connection: psycopg.Connection, stored: StoredEncoder, provenance: Mapping[str, Any]) -> None:
    """Record the library that computes the next vectors, if none of the stored ones were computed with it."""
    runtime, then = provenance.get("runtime"), stored.provenance
    known = then.get("runtimes") or [then.get("runtime", "torch")]
    # Without weights there is no network to run, by whatever library.
    if runtime is not None and provenance.get("weights_sha256") is not None and runtime not in known:
        connection.execute("SELECT cbir_internal.note_runtime(%s, %s)", [stored.name, runtime])


def _check_same(stored: StoredEncoder, dim: int, precision: Precision | None, provenance: Mapping[str, Any]) -> None:
    if stored.dim != dim:
        raise InputError(
            f"The encoder '{stored.name}' has {stored.dim} dimensions in this database, not {dim}.",
            hint="Use another name for these embeddings.",
        )
    if precision is not None and precision != stored.precision:
        raise InputError(
            f"The embeddings of '{stored.name}' are stored in {stored.precision} precision, not {precision}.",
            hint=f"Omit --precision, or run: cbirdb encoders drop {stored.name}",
        )
    check_provenance(stored, provenance)


def check_provenance(stored: StoredEncoder, provenance: Mapping[str, Any]) -> None:
    """Refuse to compare vectors with stored ones of another origin.

    :raises EncoderError: when weights, preprocessing or number format differ.
    """
    anew = f"or start anew: cbirdb encoders drop {stored.name}"
    for origin, before in (
        ("weights", stored.weights_sha256),
        ("preprocessing", stored.preprocessing_sha256),
    ):
        now = provenance.get(f"{origin}_sha256")
        if before is not None and now is not None and before != now:
            raise EncoderError(
                f"The stored embeddings of '{stored.name}' were made with other {origin}"
                f" ({before[:12]}..., now {now[:12]}...), so the two cannot be compared.",
                hint=f"Use the same weights, {anew}",
            )
    dtype, now = stored.provenance.get("dtype"), provenance.get("dtype")
    if dtype is not None and now is not None and dtype != now:
        raise EncoderError(
            f"The stored embeddings of '{stored.name}' were computed in {dtype}, not {now}.",
            hint=f"Use --dtype {dtype}, {anew}",
        )


def note_rendering(connection: psycopg.Connection, encoder: StoredEncoder, rendering_sha256: str) -> None:
    """Record how DICOM is shown to an encoder, when its first DICOM image is stored."""
    connection.execute("SELECT cbir_internal.note_rendering(%s, %s)", [encoder.name, rendering_sha256])


def pending_page(
    connection: psycopg.Connection,
    encoders: Sequence[StoredEncoder],
    datasets: Sequence[str],
    shard: Shard,
    *,
    after: int,
    page: int = 1000,
) -> list[PendingImage]:
    """Return the next images that have a file but lack an embedding of any of the encoders, ordered by id.

    :param datasets: names; empty: all.
    :param after: the last image id of the previous page; 0: start at the beginning.
    """
    found = connection.execute(
        "SELECT * FROM cbir_internal.pending_images(%s, %s, %s, %s, %s, %s)",
        [*_scope(encoders, datasets, shard), after, page],
    ).fetchall()
    return [PendingImage(*row) for row in found]


@dataclass(frozen=True, slots=True)
class Pending:
    """Counts of the work left for some encoders."""

    total: int
    """Images of the datasets and the shard."""
    images: int
    """Images that have a file and lack an embedding of any of the encoders."""
    lacking: Sequence[int]
    """For each encoder, the number of those images that lack its embedding."""
    without_file: Sequence[int]
    """For each encoder, the number of images that lack its embedding and have no file."""


def count_pending(
    connection: psycopg.Connection, encoders: Sequence[StoredEncoder], datasets: Sequence[str], shard: Shard = WHOLE
) -> Pending:
    """Count the images, those that all pages of ``pending_page`` contain, and those without a file.

    :param encoders: may be empty, to count only images.
    :param datasets: names; empty: all.
    """
    row = connection.execute(
        "SELECT * FROM cbir_internal.count_pending(%s, %s, %s, %s)", _scope(encoders, datasets, shard)
    ).fetchone()
    return Pending(*row) if row else Pending(0, 0, [], [])


def pending_roots(
    connection: psycopg.Connection, encoders: Sequence[StoredEncoder], datasets: Sequence[str]
) -> list[tuple[str, str]]:
    """Return names and folders of the datasets with an image that has a file and lacks an embedding of any encoder."""
    names = [encoder.name for encoder in encoders]
    return connection.execute(
        "SELECT dataset, root FROM cbir_internal.pending_roots(%s, %s)", [names, list(datasets) or None]
    ).fetchall()


def _scope(encoders: Sequence[StoredEncoder], datasets: Sequence[str], shard: Shard) -> list[Any]:
    return [[encoder.name for encoder in encoders], list(datasets) or None, shard.count, shard.index]


def count_embeddings(connection: psycopg.Connection, encoder: StoredEncoder) -> int:
    """Count the rows of the encoder's embedding table."""
    query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(SCHEMA, encoder.table))
    row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0


def drop_encoder(
    connection: psycopg.Connection,
    encoder: StoredEncoder,
    *,
    waits: LockWaits | None = None,
    and_then: Callable[[], object] = lambda: None,
) -> None:
    """Remove an encoder with its embeddings, indexes and evaluation runs.

    :param waits: waits for those who read the tables; None: the default.
    :param and_then: called in the same transaction.
    :raises SchemaError: when the table to drop is not an embedding table of cbirdb.
    """
    waits = waits or LockWaits(connection)
    # Derive the table from the encoder's name; a stored table name must not decide what is dropped.
    table = sql.Identifier(SCHEMA, table_name(encoder.name))
    row = connection.execute(_IS_EMBEDDING_TABLE, [table.as_string(connection)]).fetchone()
    if row is not None and not row[0]:
        raise SchemaError(
            f"The table {table_name(encoder.name)} does not look like an embedding table, so it is not dropped.",
            hint="Compare it with the table that cbir_internal.create_embedding_table creates.",
        )

    def drop() -> None:
        _drop_runs(connection, encoder)
        connection.execute("DELETE FROM cbir.encoder WHERE encoder_id = %s", [encoder.encoder_id])
        and_then()
        if row is not None:
            # Last, since all searches wait from here on: dropping the foreign key drops a trigger of cbir.image.
            waits.lock_tables([table_name(encoder.name), "image"])
            connection.execute(sql.SQL("DROP TABLE {}").format(table))

    # Runs may have millions of rows, so delete them outside of the part that is retried.
    _drop_runs(connection, encoder)
    waits.retry(drop)


def _drop_runs(connection: psycopg.Connection, encoder: StoredEncoder) -> None:
    connection.execute("DELETE FROM cbir.search_run WHERE encoder_id = %s", [encoder.encoder_id])
    connection.execute("DELETE FROM cbir.probe_run WHERE encoder_id = %s", [encoder.encoder_id])


_IS_EMBEDDING_TABLE = """
SELECT c.relkind = 'r' AND 2 = count(*) FILTER (
    WHERE (a.attname = 'image_id' AND a.atttypid = 'bigint'::regtype)
    OR (a.attname = 'embedding' AND t.typname IN ('halfvec', 'vector'))
) AND EXISTS (
    SELECT FROM pg_constraint AS f
    WHERE f.conrelid = c.oid AND f.contype = 'f' AND f.confrelid = 'cbir.image'::regclass
)
FROM pg_class AS c
INNER JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
INNER JOIN pg_type AS t ON t.oid = a.atttypid
WHERE c.oid = to_regclass(%s)
GROUP BY c.oid, c.relkind
"""


def check_datasets(connection: psycopg.Connection, names: Sequence[str]) -> None:
    """Refuse names of datasets that are not in the database.

    :raises UnknownNameError: for the first one.
    """
    known = [
        row[0] for row in connection.execute("SELECT dataset FROM cbir.dataset_overview ORDER BY dataset").fetchall()
    ]
    for name in names:
        if name not in known:
            raise UnknownNameError("dataset", name, known)
