"""What upgrades begin with."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest


@pytest.fixture
def empty(empty_database: str) -> Iterator[psycopg.Connection]:
    """A connection to a database with nothing in it."""
    with psycopg.connect(empty_database, autocommit=True) as opened:
        yield opened
