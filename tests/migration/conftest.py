"""Provide an empty database for upgrades."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest


@pytest.fixture
def empty(empty_database: str) -> Iterator[psycopg.Connection]:
    """Connect to an empty database."""
    with psycopg.connect(empty_database, autocommit=True) as opened:
        yield opened
