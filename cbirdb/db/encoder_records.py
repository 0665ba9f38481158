"""Records of encoders that a database knows besides those that ship with cbirdb."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from cbirdb.db.rows import one_value
from cbirdb.errors import InputError


def stored_records(connection: psycopg.Connection) -> dict[str, Mapping[str, Any]]:
    """All of them by name, in the order of their names."""
    return dict(
        connection.execute("SELECT encoder, spec FROM cbir.encoder_record_overview ORDER BY encoder").fetchall()
    )


def insert_record(connection: psycopg.Connection, name: str, spec: Mapping[str, Any]) -> None:
    """Store a record.

    :raises InputError: when the name is taken.
    """
    if not one_value(connection.execute("SELECT cbir_internal.add_encoder_record(%s, %s)", [name, Jsonb(dict(spec))])):
        raise InputError(
            f"There is an encoder named '{name}' already.",
            hint=f"Choose another name, or take it back first: cbirdb encoders drop {name}",
        )


def delete_record(connection: psycopg.Connection, name: str) -> bool:
    """Take a record back; False when there is none."""
    return connection.execute("DELETE FROM cbir.encoder_record WHERE name = %s", [name]).rowcount > 0
