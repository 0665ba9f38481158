"""What others may do must not stand in the way of an erasure, nor bring an erased patient back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.json import Jsonb

from tests.conftest import Logins
from tests.sql.test_similar_images import Picture, fill

PATIENTS = ["p0", "p0", "p1", "p1", "p2", "p2"]
"""Of the images 1 to 6."""


@pytest.fixture
def owner(role_database: str) -> Iterator[psycopg.Connection]:
    """A superuser's connection to a database with six images of three patients, the roles and their logins."""
    with psycopg.connect(role_database, autocommit=True) as connection:
        angles = np.radians(np.arange(6) * 10)
        vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
        assert fill(connection, vectors, [Picture(patient=patient) for patient in PATIENTS]) == [1, 2, 3, 4, 5, 6]
        yield connection


def acting(owner: psycopg.Connection, logins: Logins, who: str) -> psycopg.Connection:
    return logins.connect(who, str(conninfo_to_dict(owner.info.dsn)["dbname"]))


def audited(connection: psycopg.Connection) -> list[tuple[Any, ...]]:
    return connection.execute(
        "SELECT query_image_id, filter, returned, erased_ids FROM cbir.search_audit ORDER BY audit_id"
    ).fetchall()


def erase(owner: psycopg.Connection, pseudonym: str) -> dict[str, int]:
    row = owner.execute("SELECT removed FROM cbir.erase_patient(%s)", [pseudonym]).fetchone()
    assert row is not None
    removed: dict[str, int] = row[0]
    return removed


@pytest.mark.parametrize(
    ("given", "noted"), [("{{2,3},{4,5}}", [2, 3, 4, 5]), ("{1,NULL,3}", [1, 3]), ("{NULL}", []), ("{}", [])]
)
def test_a_readers_odd_list_of_images_does_not_stand_in_the_way_of_an_erasure(
    owner: psycopg.Connection, logins: Logins, given: str, noted: list[int]
) -> None:
    with acting(owner, logins, "reader") as reader:
        reader.execute("SELECT * FROM cbir.similar_images('toy', image_id => 1, image_ids => %s::bigint[])", [given])
    assert [row[1] for row in audited(owner)] == [{"image_ids": noted}]
    assert erase(owner, "p1")["image"] == 2
    assert [row[1] for row in audited(owner)] == [{"image_ids": [n for n in noted if n not in (3, 4)]}]


@pytest.mark.parametrize(
    ("listed", "left", "erased"),
    [
        ([[2, 3], [4, 5]], [2, 5], 2),
        ([1, None, 3], [1], 1),
        ([[[3]], "x", {"n": 4}], [], 2),
        ([3.5, 3, 10**30], [3.5, 10**30], 1),
        ("x", "x", 0),
    ],
)
def test_rows_of_older_versions_are_redacted_however_deep_the_ids_lie(
    owner: psycopg.Connection, listed: Any, left: Any, erased: int
) -> None:
    owner.execute(
        "INSERT INTO cbir.search_audit (login, role, function, filter, returned) VALUES ('x', 'x', 'x', %s, '{}')",
        [Jsonb({"image_ids": listed, "label": "a"})],
    )
    assert erase(owner, "p1")["search_audit_redacted"] == (erased > 0)
    assert audited(owner) == [(None, {"image_ids": left, "label": "a"}, [], erased)]
