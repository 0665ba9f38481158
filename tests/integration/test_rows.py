"""The one row of a statement, and what a statement without it gives."""

from __future__ import annotations

import psycopg
import pytest

from cbirdb.db.rows import first_value, one_row, one_value
from cbirdb.errors import DatabaseError


def test_a_row_and_its_first_value_are_returned(connection: psycopg.Connection) -> None:
    assert one_row(connection.execute("SELECT 1, 'a'")) == (1, "a")
    assert one_value(connection.execute("SELECT 1, 'a'")) == 1
    assert first_value(connection.execute("SELECT 1, 'a'")) == 1


def test_null_is_a_value(connection: psycopg.Connection) -> None:
    assert one_value(connection.execute("SELECT NULL")) is None


def test_a_missing_row_is_an_error_that_names_the_doctor(connection: psycopg.Connection) -> None:
    with pytest.raises(DatabaseError, match="no row for a statement that always has one") as refused:
        one_value(connection.execute("SELECT 1 WHERE FALSE"))
    assert "cbirdb db doctor" in str(refused.value)


def test_a_first_value_may_be_missing(connection: psycopg.Connection) -> None:
    assert first_value(connection.execute("SELECT 1 WHERE FALSE")) is None
