"""Checks the connected role's rights before a command asks the user to confirm, or works for long."""

from __future__ import annotations

import psycopg

from cbirdb.errors import DatabaseError


def require_function(connection: psycopg.Connection, signature: str) -> None:
    """Require the right to call a function.

    :raises DatabaseError: when this role may not call it.
    """
    _require(connection, "SELECT has_function_privilege(%s, 'EXECUTE')", signature, f"call {signature}")


def require_delete(connection: psycopg.Connection, table: str) -> None:
    """Require the right to delete from a table of schema cbir.

    :raises DatabaseError: when this role may not.
    """
    question = "SELECT has_table_privilege('cbir.' || quote_ident(%s), 'DELETE')"
    _require(connection, question, table, f"remove rows of table cbir.{table}")


def require_insert(connection: psycopg.Connection, table: str) -> None:
    """Require the right to add rows to a table of schema cbir.

    :raises DatabaseError: when this role may not.
    """
    question = "SELECT has_table_privilege('cbir.' || quote_ident(%s), 'INSERT')"
    _require(connection, question, table, f"add rows to table cbir.{table}")


def require_ownership(connection: psycopg.Connection, table: str) -> None:
    """Require the ownership of a table of schema cbir, without which it cannot be dropped.

    :raises DatabaseError: when this role does not own it.
    """
    question = (
        "SELECT coalesce((SELECT pg_has_role(c.relowner, 'USAGE') FROM pg_class AS c"
        " WHERE c.oid = to_regclass('cbir.' || quote_ident(%s))), TRUE)"
    )
    _require(connection, question, table, f"drop cbir.{table}")


def _require(connection: psycopg.Connection, question: str, name: str, action: str) -> None:
    if connection.execute(question.encode(), [name]).fetchone() != (True,):
        raise DatabaseError(
            f"This role is not allowed to {action}.",
            hint="Ask the owner of schema 'cbir' for the privilege, or connect as another role.",
        )
