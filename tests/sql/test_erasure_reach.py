"""Test which rows an erasure reaches: images by three ways to their patient, and failures that name their files."""

from __future__ import annotations

import psycopg
import pytest

from tests.support.stored_pictures import fill, unit

IMAGES, STUDIES, SERIES = "image", "study", "series"


@pytest.fixture
def known(connection: psycopg.Connection) -> list[int]:
    """Store three images of patient p, known by the image, by its study or by its series; and a fourth of patient q."""
    known = fill(connection, unit(4))
    connection.execute(
        "INSERT INTO cbir.patient (dataset_id, pseudonym) SELECT dataset_id, p FROM cbir.dataset, unnest('{p,q}'::text[]) AS p;"
        " INSERT INTO cbir.study (dataset_id, patient_id, study_uid)"
        " SELECT dataset_id, patient_id, 'study of ' || pseudonym FROM cbir.patient;"
        " INSERT INTO cbir.series (study_id, series_uid) SELECT study_id, 'series' FROM cbir.study"
    )
    own = {
        IMAGES: "patient_id = (SELECT patient_id FROM cbir.patient WHERE pseudonym = %s)",
        STUDIES: "study_id = (SELECT study_id FROM cbir.study WHERE study_uid = 'study of ' || %s)",
        SERIES: "series_id = (SELECT series_id FROM cbir.series JOIN cbir.study USING (study_id)"
        " WHERE study_uid = 'study of ' || %s)",
    }
    for image, way, whose in zip(known, (IMAGES, STUDIES, SERIES, SERIES), "pppq", strict=True):
        connection.execute(f"UPDATE cbir.image SET {own[way]} WHERE image_id = %s".encode(), [whose, image])
    return known


def left(connection: psycopg.Connection, column: str, table: str) -> list[object]:
    return [row[0] for row in connection.execute(f"SELECT {column} FROM cbir.{table} ORDER BY 1".encode()).fetchall()]


def erase(connection: psycopg.Connection, pseudonym: str) -> dict[str, int]:
    row = connection.execute("SELECT removed FROM cbir.erase_patient(%s)", [pseudonym]).fetchone()
    assert row is not None
    removed: dict[str, int] = row[0]
    return removed


@pytest.mark.parametrize("place", range(3), ids=["by the image", "by its study", "by its series"])
def test_image_is_erased_by_its_own_its_studys_or_its_series_patient(
    connection: psycopg.Connection, known: list[int], place: int
) -> None:
    """The patient has only this one image, so that no other leads to it."""
    others = [image for image in known[:3] if image != known[place]]
    connection.execute("DELETE FROM cbir.image WHERE image_id = ANY(%s)", [others])
    removed = erase(connection, "p")
    assert {name: removed[name] for name in ("image", "study", "series", "patient")} == {
        "image": 1, "study": 1, "series": 1, "patient": 1,
    }  # fmt: skip
    assert left(connection, "image_id", "image") == left(connection, "image_id", "embedding_toy") == [known[3]]
    assert left(connection, "study_uid", "study") == ["study of q"]
    row = connection.execute("SELECT count(*) FROM cbir.erased_image").fetchone()
    assert row == (1,), "its file is known, so that it does not come back"


def test_study_without_patient_is_erased_with_its_last_image(connection: psycopg.Connection, known: list[int]) -> None:
    connection.execute("UPDATE cbir.study SET patient_id = NULL WHERE study_uid = 'study of p'")
    whole = "UPDATE cbir.image SET patient_id = (SELECT patient_id FROM cbir.patient WHERE pseudonym = %s), study_id ="
    connection.execute(
        f"{whole} (SELECT min(study_id) FROM cbir.study) WHERE image_id = ANY(%s)".encode(), ["p", known[:2]]
    )
    connection.execute(f"{whole} (SELECT min(study_id) FROM cbir.study) WHERE image_id = %s".encode(), ["q", known[2]])
    erase(connection, "p")
    assert left(connection, "study_uid", "study") == ["study of p", "study of q"], "patient q has an image in both"
    erase(connection, "q")
    assert left(connection, "study_uid", "study") == []


def test_erasure_removes_failures_of_the_patients_files_in_their_dataset_or_none(
    connection: psycopg.Connection, known: list[int]
) -> None:
    connection.execute("INSERT INTO cbir.dataset (name, reader) VALUES ('another', 'test')")
    connection.execute(
        "INSERT INTO cbir.failure (stage, dataset_id, source, reason, detail)"
        " SELECT 'ingest', d.dataset_id, i.source, 'corrupt', coalesce(d.name, 'none') || ' ' || i.image_id"
        " FROM cbir.image AS i, (SELECT dataset_id, name FROM cbir.dataset UNION ALL SELECT NULL, NULL) AS d"
    )
    assert erase(connection, "p")["failure"] == 2 * 3
    # Another dataset's file of the same name is another file; and patient q has failures, too.
    assert left(connection, "detail", "failure") == sorted(
        [*(f"another {image}" for image in known), f"none {known[3]}", f"one {known[3]}"]
    )
