"""Test what SQL keeps and finds of DICOM: frames, UIDs, filters, equal UIDs, and the rendering of an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
import pytest
from pgvector import Vector

from cbirdb.db import catalogue
from cbirdb.db.catalogue import ImageRow, PatientRow, StudyRow
from cbirdb.db.embeddings import count_pending, find_encoder, note_rendering, pending_page
from cbirdb.records import WHOLE, DicomFacts, FileFacts, FrameFacts, OnConflict
from tests.support.stored_pictures import PICTURES, fill, unit

CT = DicomFacts(
    "1.2.840.10008.5.1.4.1.1.2",
    transfer_syntax_uid="1.2.840.10008.1.2.1",
    modality_code="CT",
    body_part="CHEST",
    laterality="L",
    image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
    manufacturer="SIEMENS",
    pixel_spacing=(0.5, 0.25),
    slice_position=(1.5, -2.0, 3.25),
    slice_orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    accession="0123",
)
FACTS = FileFacts(None, 64, 32, 1000, 17)
RENDERING, OTHER_RENDERING = "a" * 64, "b" * 64


def frame(source: str, number: int = 0, *, sop_uid: str = "1.2.3", **changes: Any) -> ImageRow:
    values: dict[str, Any] = {
        "modality": "CT", "anatomic_region": "chest", "labels": {}, "facts": FACTS, "view": "AP",
        "patient": PatientRow("p1", "F"), "study": StudyRow("1.2", None, 50, "0123"), "frame": number,
        "sop_uid": sop_uid, "series_uid": "1.2.9", "dicom": CT,
    }  # fmt: skip
    return ImageRow(source=source, split=None, **(values | changes))


def store(connection: psycopg.Connection, rows: Sequence[ImageRow], *, dataset: str = "dicom") -> list[int]:
    dataset_id = catalogue.ensure_dataset(connection, dataset, "dicom", "/files", moved=False)
    ids = catalogue.store_images(connection, dataset_id, rows, {})
    return [ids[row.key] for row in rows]


def read(pixels: str, *, file: str | None = None) -> FrameFacts:
    return FrameFacts((file or pixels).encode().ljust(32), pixels.encode().ljust(32), 64, 32)


def row(connection: psycopg.Connection, statement: str, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
    return connection.execute(statement.encode(), values or None).fetchone()


def settle(connection: psycopg.Connection, on_conflict: OnConflict = "keep", **pixels: FrameFacts) -> dict[int, str]:
    return catalogue.settle_pixels(connection, {int(key[1:]): value for key, value in pixels.items()}, on_conflict)


def test_stored_frames_are_read_back_as_they_were_written(connection: psycopg.Connection) -> None:
    rows = [frame("a", 0), frame("a", 1, view=None, dicom=DicomFacts("1.2.840.10008.5.1.4.1.1.4"))]
    ids = store(connection, rows)
    dataset_id = catalogue.ensure_dataset(connection, "dicom", "dicom", "/files", moved=False)
    found = catalogue.stored_images(connection, dataset_id, ["a"])
    assert [found[row.key].image_id for row in rows] == ids
    assert found[rows[0].key].row == rows[0]
    # The accession number is the study's.
    assert found[rows[1].key].row.dicom == DicomFacts("1.2.840.10008.5.1.4.1.1.4", accession="0123")


def test_view_counts_frames_from_one_and_shows_the_hierarchy(connection: psycopg.Connection) -> None:
    store(connection, [frame("a", 0), frame("a", 1)])
    assert connection.execute(
        "SELECT frame, patient, study_uid, series_uid, sop_uid, accession, manufacturer, image_type, pixel_spacing"
        " FROM cbir.image_overview ORDER BY frame"
    ).fetchall() == [
        (number, "p1", "1.2", "1.2.9", "1.2.3", "0123", "SIEMENS", ["ORIGINAL", "PRIMARY", "AXIAL"], [0.5, 0.25])
        for number in (1, 2)
    ]  # fmt: skip


def test_arrays_of_pictures_without_dicom_are_null(connection: psycopg.Connection) -> None:
    store(connection, [frame("a", dicom=None, sop_uid="1")])
    assert (
        connection.execute(
            "SELECT image_type, pixel_spacing, slice_position, slice_orientation, manufacturer FROM cbir.image_overview"
        ).fetchone()
        == (None,) * 5
    )


def test_find_image_names_frames_from_one_by_each_uid(connection: psycopg.Connection) -> None:
    ids = store(connection, [frame("a", 0), frame("a", 1), frame("b", sop_uid="1.2.4")])
    for argument, value, expected in (
        ("sop_uid", "1.2.3", ids[:2]), ("series_uid", "1.2.9", ids), ("study_uid", "1.2", ids),
    ):  # fmt: skip
        found = connection.execute(f"SELECT image_id, frame FROM cbir.find_image({argument} => %s)", [value]).fetchall()
        assert found == list(zip(expected, [1, 2, 1], strict=False))


@pytest.fixture
def searchable(connection: psycopg.Connection) -> list[int]:
    """Three DICOM frames and one of another file, with embeddings of an encoder ``toy``."""
    ids = fill(connection, unit(len(PICTURES)), PICTURES)
    connection.execute(
        "UPDATE cbir.image SET sop_uid = '9.9.9', frame = image_id - 1, source = 'a', laterality = 'L', view = 'AP',"
        " image_type = '{ORIGINAL,PRIMARY}', manufacturer = 'SIEMENS', body_part = 'CHEST' WHERE image_id <= 3"
    )
    return ids


def found(connection: psycopg.Connection, arguments: str) -> set[int]:
    rows = connection.execute(f"SELECT image_id FROM cbir.similar_images('toy', k => 20, {arguments})").fetchall()
    return {image_id for (image_id,) in rows}


def test_a_frame_is_found_by_uid_and_number(connection: psycopg.Connection, searchable: list[int]) -> None:
    for number in (1, 2, 3):
        by_frame = found(connection, f"sop_uid => '9.9.9', frame => {number}, same_patient => TRUE")
        assert by_frame == set(searchable) - {number}


def test_uid_of_several_frames_is_refused_with_their_ids(connection: psycopg.Connection, searchable: list[int]) -> None:
    with pytest.raises(psycopg.errors.CardinalityViolation, match="3 images have this UID") as error:
        found(connection, "sop_uid => '9.9.9'")
    assert "1, 2, 3" in (error.value.diag.message_hint or "")


@pytest.mark.parametrize("frame_number", [0, -1, 4])
def test_frame_that_does_not_exist_is_refused(
    connection: psycopg.Connection, searchable: list[int], frame_number: int
) -> None:
    with pytest.raises(psycopg.Error, match=r"no frame|no image has"):
        found(connection, f"sop_uid => '9.9.9', frame => {frame_number}")


def test_frame_without_a_uid_is_refused(connection: psycopg.Connection, searchable: list[int]) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="a frame only with a UID"):
        found(connection, "image_id => 1, frame => 1")


@pytest.mark.parametrize(
    "condition",
    [
        "laterality => 'L'", "view => 'AP'", "image_type => 'ORIGINAL'", "manufacturer => 'SIEMENS'",
        "body_part => 'CHEST'", "laterality => 'L', view => 'AP', manufacturer => 'SIEMENS'",
    ],
)  # fmt: skip
def test_filter_lets_through_the_images_that_have_the_value(
    connection: psycopg.Connection, searchable: list[int], condition: str
) -> None:
    assert found(connection, f"image_id => 7, same_patient => TRUE, {condition}") == {1, 2, 3}


@pytest.mark.parametrize(
    ("argument", "value", "known"),
    [
        ("view", "PAA", "AP"), ("image_type", "ORIGINALS", "ORIGINAL, PRIMARY"), ("manufacturer", "SIMENS", "SIEMENS"),
        ("body_part", "CHES", "CHEST"), ("laterality", "left", "L, R, B, U"),
    ],
)  # fmt: skip
def test_unknown_value_of_a_filter_is_named_with_the_known_ones(
    connection: psycopg.Connection, searchable: list[int], argument: str, value: str, known: str
) -> None:
    with pytest.raises(psycopg.errors.UndefinedObject, match=f'"{value}" in this database') as error:
        found(connection, f"image_id => 7, {argument} => '{value}'")
    assert known in (error.value.diag.message_hint or "")


def test_first_reading_of_a_frame_fills_its_hashes(connection: psycopg.Connection) -> None:
    (image_id,) = store(connection, [frame("a")])
    assert settle(connection, **{f"i{image_id}": read("x")}) == {image_id: "own"}
    assert connection.execute("SELECT sha256, pixel_sha256, replaced_by FROM cbir.image").fetchone() == (
        b"x".ljust(32), b"x".ljust(32), None,
    )  # fmt: skip


def test_same_uid_and_same_pixels_is_a_copy_of_the_older_one(connection: psycopg.Connection) -> None:
    older, newer = store(connection, [frame("a"), frame("b")])
    outcomes = settle(connection, **{f"i{older}": read("x"), f"i{newer}": read("x", file="y")})
    assert outcomes == {older: "own", newer: "copy"}
    assert row(connection, "SELECT replaced_by FROM cbir.image WHERE image_id = %s", [newer]) == (older,)


def test_same_uid_in_another_dataset_is_no_copy(connection: psycopg.Connection) -> None:
    (here,) = store(connection, [frame("a")])
    (there,) = store(connection, [frame("a")], dataset="other")
    assert settle(connection, **{f"i{here}": read("x"), f"i{there}": read("x")}) == {here: "own", there: "own"}


def test_same_uid_and_another_frame_is_no_copy(connection: psycopg.Connection) -> None:
    first, second = store(connection, [frame("a", 0), frame("a", 1)])
    assert set(settle(connection, **{f"i{first}": read("x"), f"i{second}": read("x")}).values()) == {"own"}


@pytest.mark.parametrize(
    ("on_conflict", "outcome", "searched"),
    [("keep", "kept", ["a", "b"]), ("replace", "replaced", ["b"]), ("skip", "skipped", ["a", "b"])],
)
def test_same_uid_and_other_pixels_ends_as_the_caller_says(
    connection: psycopg.Connection, on_conflict: OnConflict, outcome: str, searched: list[str]
) -> None:
    older, newer = store(connection, [frame("a"), frame("b")])
    settle(connection, **{f"i{older}": read("x")})
    overtaken = {older: "overtaken"} if on_conflict == "replace" else {}
    assert settle(connection, on_conflict, **{f"i{newer}": read("y")}) == {newer: outcome} | overtaken
    left = connection.execute("SELECT source FROM cbir.image WHERE replaced_by IS NULL ORDER BY 1").fetchall()
    assert [source for (source,) in left] == searched
    known = row(connection, "SELECT sha256 IS NOT NULL FROM cbir.image WHERE image_id = %s", [newer])
    assert known == (on_conflict != "skip",)


def test_replaced_frame_loses_its_embeddings_and_is_not_pending(
    connection: psycopg.Connection, searchable: list[int]
) -> None:
    connection.execute("UPDATE cbir.image SET frame = 0, source = image_id::text WHERE image_id <= 2")
    connection.execute("UPDATE cbir.dataset SET root = '/files'")
    connection.execute("UPDATE cbir.image SET sha256 = '\\x01', pixel_sha256 = '\\x01' WHERE image_id = 1")
    connection.execute("DELETE FROM cbir.embedding_toy WHERE image_id = 2")
    assert settle(connection, "replace", i2=read("y")) == {1: "overtaken", 2: "replaced"}
    assert 1 not in found(connection, "image_id => 7, same_patient => TRUE")
    toy = find_encoder(connection, "toy")
    assert toy is not None
    pending = pending_page(connection, [toy], [], WHOLE, after=0)
    assert [image.image_id for image in pending] == [2]
    assert count_pending(connection, [toy], []).images == 1


def test_copy_stands_for_itself_again_when_the_older_one_is_removed(connection: psycopg.Connection) -> None:
    older, newer = store(connection, [frame("a"), frame("b")])
    settle(connection, **{f"i{older}": read("x"), f"i{newer}": read("x")})
    connection.execute("DELETE FROM cbir.image WHERE image_id = %s", [older])
    assert row(connection, "SELECT replaced_by FROM cbir.image WHERE image_id = %s", [newer]) == (None,)


def test_changed_file_forgets_its_hashes_and_embeddings(connection: psycopg.Connection, searchable: list[int]) -> None:
    connection.execute(
        "UPDATE cbir.image SET sha256 = '\\x01', pixel_sha256 = '\\x01', file_modified_ns = 1, file_bytes = 1"
        " WHERE image_id = 1"
    )
    (dataset_id,) = row(connection, "SELECT dataset_id FROM cbir.image WHERE image_id = 1")
    catalogue.store_images(connection, dataset_id, [], {1: frame("a", sop_uid="1.2.3")})
    assert row(connection, "SELECT sha256, pixel_sha256 FROM cbir.image WHERE image_id = 1") == (None, None)
    assert 1 not in found(connection, "image_id => 7, same_patient => TRUE")


def test_unknown_choice_for_conflicts_is_refused(connection: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="keep, replace or skip"):
        connection.execute("SELECT cbir_internal.settle_pixels('{}', '{}', '{}', '{}', '{}', 'guess')")


def test_second_rendering_of_an_encoder_is_refused(connection: psycopg.Connection, searchable: list[int]) -> None:
    toy = find_encoder(connection, "toy")
    assert toy is not None
    assert toy.rendering_sha256 is None
    for _ in range(2):
        note_rendering(connection, toy, RENDERING)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="another rendering"):
        note_rendering(connection, toy, OTHER_RENDERING)
    again = find_encoder(connection, "toy")
    assert again is not None
    assert again.rendering_sha256 == RENDERING


def test_word_for_a_body_part_needs_a_code_of_dicom(connection: psycopg.Connection) -> None:
    connection.execute("INSERT INTO cbir.body_part VALUES ('LWRLEG', 'lower leg')")
    assert catalogue.body_parts(connection) == {"LWRLEG": "lower leg"}
    with pytest.raises(psycopg.errors.CheckViolation):
        connection.execute("INSERT INTO cbir.body_part VALUES ('Doe^Jane', 'chest')")


def test_vector_search_needs_no_frame(connection: psycopg.Connection, searchable: list[int]) -> None:
    vector = Vector(unit(len(PICTURES))[0])
    rows = connection.execute(
        "SELECT image_id FROM cbir.similar_images('toy', query => %s::vector)", [vector.to_text()]
    )
    assert rows.fetchone() is not None
