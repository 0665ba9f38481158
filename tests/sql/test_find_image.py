"""cbir.find_image: everything that is given must hold, and a row tells of its own series, study and patient."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.support.stored_pictures import Picture, fill, put_in_studies, unit


@pytest.fixture
def known(connection: psycopg.Connection) -> list[int]:
    """Store four images of two patients, two studies and two series."""
    known = fill(connection, unit(4), [Picture(patient=name, labels=("a", "b")) for name in "ppqq"])
    put_in_studies(connection, known, ["s1", "s1", "s2", "s2"])
    for uid, images in (("r1", known[:2]), ("r2", known[2:])):
        connection.execute(
            "WITH made AS (INSERT INTO cbir.series (study_id, series_uid)"
            " SELECT study_id, %s FROM cbir.image WHERE image_id = %s RETURNING series_id)"
            " UPDATE cbir.image SET series_id = made.series_id FROM made WHERE image_id = ANY (%s)",
            [uid, images[0], images],
        )
    return known


def found(connection: psycopg.Connection, **given: Any) -> list[dict[str, Any]]:
    arguments = ", ".join(f"{name} => %({name})s" for name in given)
    cursor = connection.cursor(row_factory=dict_row)
    return cursor.execute(f"SELECT * FROM cbir.find_image({arguments})", given).fetchall()


def test_found_image_shows_its_own_series_study_patient_and_labels(
    connection: psycopg.Connection, known: list[int]
) -> None:
    (row,) = found(connection, image_id=known[2])
    shown = ("image_id", "series_uid", "study_uid", "patient", "source", "sop_uid", "labels")
    assert [row[name] for name in shown] == [known[2], "r2", "s2", "q", "2", "1.2.2", ["a", "b"]]


@pytest.mark.parametrize(
    ("given", "places"),
    [
        ({"series_uid": "r1"}, [0, 1]),
        ({"study_uid": "s2"}, [2, 3]),
        ({"sop_uid": "1.2.1"}, [1]),
        ({"source": "3"}, [3]),
        ({"source": "3", "dataset": "one"}, [3]),
        ({"source": "3", "dataset": "two"}, []),
        ({"study_uid": "s1", "series_uid": "r2"}, []),
        ({"study_uid": "s2", "sop_uid": "1.2.3"}, [3]),
    ],
)
def test_everything_that_is_given_must_hold(
    connection: psycopg.Connection, known: list[int], given: dict[str, str], places: list[int]
) -> None:
    assert [row["image_id"] for row in found(connection, **given)] == [known[place] for place in places]
