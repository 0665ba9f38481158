"""Provide an empty database for upgrades."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql


@pytest.fixture
def empty(empty_database: str) -> Iterator[psycopg.Connection]:
    """Connect to an empty database."""
    with psycopg.connect(empty_database, autocommit=True) as opened:
        yield opened


@pytest.fixture
def role(request: pytest.FixtureRequest) -> Iterator[str]:
    """A role without any privilege; ``become`` turns a superuser's session into one of its own."""
    name = f"cbirdb_role_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(request.getfixturevalue("server"), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))
        yield name
        # What it owns or was granted lies in databases that are dropped later: end that first.
        for (database,) in admin.execute(
            "SELECT datname FROM pg_database JOIN pg_shdepend ON dbid = pg_database.oid OR objid = pg_database.oid"
            " WHERE refobjid = %s::regrole GROUP BY datname",
            [name],
        ).fetchall():
            with psycopg.connect(request.getfixturevalue("server"), dbname=database, autocommit=True) as there:
                there.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(name)))
        admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))
