"""The SQL reference is made from files, without a database; here it is held against one."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import psycopg
import pytest

EXTENSIONS = Path(__file__).resolve().parents[2] / "docs" / "_extensions"
COLUMNS = """
SELECT c.relname, array_agg(a.attname::text ORDER BY a.attnum)
FROM pg_class AS c INNER JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
WHERE c.relnamespace = 'cbir'::regnamespace AND c.relkind = 'v'
GROUP BY c.relname
"""


def test_columns_of_views_in_the_reference_are_those_of_the_database(
    connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXTENSIONS))
    made = [item for item in import_module("sql_reference").objects() if item.kind == "view" and item.schema == "cbir"]
    stored = dict(connection.execute(COLUMNS).fetchall())
    assert {item.name for item in made} == set(stored)
    # Of a SELECT of all columns the reference names none.
    named = {item.name: [name for name, _ in item.columns] for item in made if item.columns}
    assert len(named) >= len(stored) - 1
    assert named == {name: stored[name] for name in named}
