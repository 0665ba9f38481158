"""Test helpers that return the one row of a statement, or report that it is missing."""

from __future__ import annotations

import psycopg
import pytest

from cbirdb.db.rows import first_value, one_row, one_value
from cbirdb.errors import DatabaseError


def test_one_row_and_one_value_return_the_row_and_its_first_value(connection: psycopg.Connection) -> None:
    assert one_row(connection.execute("SELECT 1, 'a'")) == (1, "a")
    assert one_value(connection.execute("SELECT 1, 'a'")) == 1
    assert first_value(connection.execute("SELECT 1, 'a'")) == 1


def test_one_value_returns_none_for_null(connection: psycopg.Connection) -> None:
    assert one_value(connection.execute("SELECT NULL")) is None


def test_one_value_without_a_row_raises_and_names_db_doctor(connection: psycopg.Connection) -> None:
    with pytest.raises(DatabaseError, match="no row for a statement that always has one") as refused:
        one_value(connection.execute("SELECT 1 WHERE FALSE"))
    assert "cbirdb db doctor" in str(refused.value)


def test_first_value_without_a_row_is_none(connection: psycopg.Connection) -> None:
    assert first_value(connection.execute("SELECT 1 WHERE FALSE")) is None
