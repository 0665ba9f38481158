"""Encoders in the database, their embedding tables, and which images still lack an embedding."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from cbirdb.db.tables import SCHEMA
from cbirdb.errors import EncoderError, InputError, UnknownNameError
from cbirdb.records import Precision


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


@dataclass(frozen=True, slots=True)
class PendingImage:
    """An image without an embedding, and the folder that its source is relative to."""

    image_id: int
    dataset_id: int
    dataset: str
    source: str
    root: str


def table_name(encoder: str) -> str:
    """``tiny-image`` -> ``embedding_tiny_image``.

    :raises InputError: when the name has no letter or digit, or is too long for PostgreSQL.
    """
    slug = re.sub(r"[^a-z0-9]+", "_", encoder.lower()).strip("_")
    if not slug or len(slug) > 40:
        raise InputError(f"'{encoder}' cannot name an encoder.", hint="Use 1 to 40 letters, digits and hyphens.")
    return f"embedding_{slug}"


def find_encoder(connection: psycopg.Connection, name: str) -> StoredEncoder | None:
    """The encoder of that name in this database, or None."""
    row = connection.execute(
        "SELECT encoder_id, name, table_name, dim, precision, weights_sha256, preprocessing_sha256, spec"
        " FROM cbir.encoder WHERE name = %s",
        [name],
    ).fetchone()
    return StoredEncoder(*row) if row else None


def get_encoder(connection: psycopg.Connection, name: str, *, also_known: Sequence[str] = ()) -> StoredEncoder:
    """The encoder of that name in this database.

    :param also_known: names that would be right but have not been used in this database.
    :raises UnknownNameError: when the name means nothing.
    :raises InputError: when the encoder is known but has no embeddings here yet.
    """
    found = find_encoder(connection, name)
    if found is not None:
        return found
    if name in also_known:
        raise InputError(
            f"There are no embeddings of '{name}' in this database yet.", hint=f"Run: cbirdb encode -e {name}"
        )
    stored = [row[0] for row in connection.execute("SELECT name FROM cbir.encoder").fetchall()]
    raise UnknownNameError("encoder", name, sorted({*stored, *also_known}))


def register_encoder(
    connection: psycopg.Connection,
    name: str,
    *,
    dim: int,
    precision: Precision | None,
    spec: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> StoredEncoder:
    """Make the encoder's row and embedding table, or check that those there are of the same encoder.

    :param precision: None: half for a new encoder, whatever it is for one that exists.
    :raises InputError: when the stored dimension or precision differs.
    :raises EncoderError: when the stored vectors came from other weights or another preprocessing.
    """
    with connection.transaction():
        connection.execute(
            """
            INSERT INTO cbir.encoder (
                name, table_name, dim, precision, weights_sha256, preprocessing_sha256, licence, spec, provenance
            )
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
            """,
            [
                name, table_name(name), dim, precision or "half", provenance.get("weights_sha256"),
                provenance.get("preprocessing_sha256"), spec.get("licence"), Jsonb(dict(spec)), Jsonb(dict(provenance)),
            ],
        )  # fmt: skip
        stored = find_encoder(connection, name)
        if stored is None:
            raise InputError(
                f"The encoder '{name}' would share the table {table_name(name)} with another one.",
                hint="Choose a name that differs in more than punctuation.",
            )
        _check_same(stored, dim, precision, provenance)
        connection.execute("SELECT cbir.create_embedding_table(%s)", [name])
    return stored


def _check_same(stored: StoredEncoder, dim: int, precision: Precision | None, provenance: Mapping[str, Any]) -> None:
    if stored.dim != dim:
        raise InputError(
            f"The encoder '{stored.name}' has {stored.dim} dimensions in this database, not {dim}.",
            hint="Use another name for these embeddings.",
        )
    if precision is not None and precision != stored.precision:
        raise InputError(
            f"The embeddings of '{stored.name}' are stored in {stored.precision} precision, not {precision}.",
            hint=f"Leave out --precision, or run: cbirdb encoders drop {stored.name}",
        )
    for what, before in (
        ("weights_sha256", stored.weights_sha256),
        ("preprocessing_sha256", stored.preprocessing_sha256),
    ):
        now = provenance.get(what)
        if before is not None and now is not None and before != now:
            raise EncoderError(
                f"The stored embeddings of '{stored.name}' were made with other {what.removesuffix('_sha256')}"
                f" ({before[:12]}..., now {now[:12]}...), so the two cannot be compared.",
                hint=f"Use the same weights, or start anew: cbirdb encoders drop {stored.name}",
            )


_PENDING: LiteralString = """
    SELECT i.image_id, i.dataset_id, d.name, i.source, d.root
    FROM cbir.image AS i
    INNER JOIN cbir.dataset AS d ON d.dataset_id = i.dataset_id
    WHERE i.image_id > %(after)s AND (d.root IS NOT NULL) = %(with_file)s
      AND (%(datasets)s::text[] IS NULL OR d.name = ANY(%(datasets)s))
      AND NOT EXISTS (SELECT FROM {table} AS e WHERE e.image_id = i.image_id)
"""


def pending_images(
    connection: psycopg.Connection, encoder: StoredEncoder, datasets: Sequence[str] | None, *, page: int = 1000
) -> Iterator[PendingImage]:
    """Images that have a file but no embedding yet, in the order of their ids, read page by page.

    :param datasets: names; None: all.
    """
    table = sql.Identifier(SCHEMA, encoder.table)
    query = sql.SQL(_PENDING + " ORDER BY i.image_id LIMIT %(page)s").format(table=table)
    after = 0
    names = list(datasets) if datasets else None
    while rows := connection.execute(
        query, {"after": after, "datasets": names, "with_file": True, "page": page}
    ).fetchall():
        yield from (PendingImage(*row) for row in rows)
        after = rows[-1][0]


def count_pending(
    connection: psycopg.Connection, encoder: StoredEncoder, datasets: Sequence[str] | None, *, with_file: bool = True
) -> int:
    """How many images ``pending_images`` would yield; or how many it leaves out for want of a file."""
    table = sql.Identifier(SCHEMA, encoder.table)
    query = sql.SQL("SELECT count(*) FROM ({}) AS pending").format(sql.SQL(_PENDING).format(table=table))
    values = {"after": 0, "datasets": list(datasets) if datasets else None, "with_file": with_file}
    row = connection.execute(query, values).fetchone()
    return int(row[0]) if row else 0


def count_embeddings(connection: psycopg.Connection, encoder: StoredEncoder) -> int:
    """Rows of the encoder's embedding table."""
    query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(SCHEMA, encoder.table))
    row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0


def drop_encoder(connection: psycopg.Connection, encoder: StoredEncoder) -> None:
    """Remove an encoder with its embeddings, indexes and evaluation runs."""
    with connection.transaction():
        connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(SCHEMA, encoder.table)))
        connection.execute("DELETE FROM cbir.search_run WHERE encoder_id = %s", [encoder.encoder_id])
        connection.execute("DELETE FROM cbir.encoder WHERE encoder_id = %s", [encoder.encoder_id])


def check_datasets(connection: psycopg.Connection, names: Sequence[str]) -> None:
    """Refuse names of datasets that are not in the database.

    :raises UnknownNameError: for the first one.
    """
    known = [row[0] for row in connection.execute("SELECT name FROM cbir.dataset ORDER BY name").fetchall()]
    for name in names:
        if name not in known:
            raise UnknownNameError("dataset", name, known)
