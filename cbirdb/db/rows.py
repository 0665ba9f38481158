"""Takes the row, or its one value, from a statement that returns a single row."""

from __future__ import annotations

from typing import Any, TypeVar

import psycopg

from cbirdb.errors import DatabaseError

Row = TypeVar("Row")


def one_row(cursor: psycopg.Cursor[Row]) -> Row:
    """Return the row of a statement that always has one.

    :raises DatabaseError: when the server returned none.
    """
    row = cursor.fetchone()
    if row is None:
        raise DatabaseError(
            "The server returned no row for a statement that always has one.",
            hint="Run: cbirdb db doctor. It compares schema 'cbir' with this version's.",
        )
    return row


def one_value(cursor: psycopg.Cursor[tuple[Any, ...]]) -> Any:
    """Return the first value of the row that a statement always has.

    :raises DatabaseError: when the server returned none.
    """
    return one_row(cursor)[0]


def first_value(cursor: psycopg.Cursor[tuple[Any, ...]]) -> Any | None:
    """Return the first value of the first row; None if there is no row."""
    row = cursor.fetchone()
    return None if row is None else row[0]
