"""Stores records of encoders in a database, besides those that ship with cbirdb."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from cbirdb.db.rows import one_value
from cbirdb.errors import InputError


def stored_records(connection: psycopg.Connection) -> dict[str, Mapping[str, Any]]:
    """Return all records, ordered by name."""
    return dict(
        connection.execute("SELECT encoder, spec FROM cbir.encoder_record_overview ORDER BY encoder").fetchall()
    )


def insert_record(connection: psycopg.Connection, name: str, spec: Mapping[str, Any]) -> None:
    """Store a record.

    :raises InputError: when the name is taken.
    """
    if not one_value(connection.execute("SELECT cbir_internal.add_encoder_record(%s, %s)", [name, Jsonb(dict(spec))])):
        raise InputError(
            f"An encoder named '{name}' already exists.",
            hint=f"Choose another name, or remove that encoder first: cbirdb encoders drop {name}",
        )


def delete_record(connection: psycopg.Connection, name: str) -> bool:
    """Delete a record; return False if there is none."""
    return connection.execute("DELETE FROM cbir.encoder_record WHERE name = %s", [name]).rowcount > 0
