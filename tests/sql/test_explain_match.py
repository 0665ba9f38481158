"""Test cbir.explain_match: what two images share, and their distance under every encoder that has both."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
import pytest
from pgvector import HalfVector
from psycopg.rows import dict_row

from tests.support.stored_pictures import Picture, fill, search, unit

COLUMNS = [
    "encoder", "distance", "similarity", "shared_labels", "labels_of_a_only", "labels_of_b_only", "identical_file",
    "same_patient", "same_study", "same_series", "same_dataset", "same_modality", "same_anatomic_region",
]  # fmt: skip


def explain(connection: psycopg.Connection, a: int | None, b: int | None) -> list[dict[str, Any]]:
    cursor = connection.cursor(row_factory=dict_row)
    return cursor.execute("SELECT * FROM cbir.explain_match(%s, %s)", [a, b]).fetchall()


@pytest.fixture
def known(connection: psycopg.Connection) -> list[int]:
    """Store three images; the second encoder, of 3 half-precision numbers, has only the first two."""
    ids = fill(
        connection,
        unit(3),
        [
            Picture(labels=("x", "y"), patient="p", study_date="2020-01-01"),
            Picture(labels=("y", "z"), patient="p", modality="CT"),
            Picture("two", region=None),
        ],
    )
    connection.execute(
        "INSERT INTO cbir.encoder (name, table_name, dim, precision) VALUES ('b', 'embedding_b', 3, 'half')"
    )
    connection.execute("SELECT cbir_internal.create_embedding_table('b')")
    for image_id, vector in zip(ids, ([1, 0, 0], [0.6, 0.8, 0]), strict=False):
        connection.execute("INSERT INTO cbir.embedding_b VALUES (%s, %s)", [image_id, HalfVector(vector).to_text()])
    return ids


def test_explain_match_equals_the_example_worked_by_hand(connection: psycopg.Connection, known: list[int]) -> None:
    vectors = unit(3).astype(float)
    rows = {row["encoder"]: row for row in explain(connection, known[0], known[1])}
    assert [list(row) for row in rows.values()] == [COLUMNS] * 2
    assert rows["b"]["distance"] == pytest.approx(0.4, abs=1e-3)
    assert rows["toy"]["distance"] == pytest.approx(1 - vectors[0] @ vectors[1], abs=1e-6)
    assert [row["distance"] for row in explain(connection, known[0], known[1])] == sorted(
        row["distance"] for row in rows.values()
    )
    for row in rows.values():
        assert row["similarity"] == 1 - row["distance"]
        assert (row["shared_labels"], row["labels_of_a_only"], row["labels_of_b_only"]) == (["y"], ["x"], ["z"])
        assert (row["same_patient"], row["same_dataset"], row["same_modality"], row["same_anatomic_region"]) == (
            True, True, False, True,
        )  # fmt: skip
        # Not known of one or both of them.
        assert (row["same_study"], row["same_series"], row["identical_file"]) == (None, None, None)
    connection.execute("UPDATE cbir.image SET sha256 = %s", [b"same"])
    (row,) = explain(connection, known[1], known[2])
    assert (row["encoder"], row["identical_file"], row["same_dataset"]) == ("toy", True, False)
    assert (row["same_patient"], row["same_anatomic_region"]) == (None, None)


def test_images_without_embedding_get_one_row_without_encoder(connection: psycopg.Connection, known: list[int]) -> None:
    connection.execute("DELETE FROM cbir.embedding_toy WHERE image_id = %s", [known[1]])
    connection.execute("DELETE FROM cbir.embedding_b")
    (row,) = explain(connection, known[0], known[1])
    assert (row["encoder"], row["distance"], row["shared_labels"]) == (None, None, ["y"])


def test_explain_match_gives_the_distance_of_the_search(connection: psycopg.Connection, known: list[int]) -> None:
    for encoder in ("toy", "b"):
        for found in search(connection, known[0], encoder, same_patient=True):
            rows = {row["encoder"]: row for row in explain(connection, known[0], found["image_id"])}
            # A search normalises its query first.
            assert rows[encoder]["distance"] == pytest.approx(found["distance"], abs=1e-6 if encoder == "toy" else 1e-3)


def test_image_has_distance_zero_to_itself(connection: psycopg.Connection, known: list[int]) -> None:
    for row in explain(connection, known[0], known[0]):
        assert row["distance"] == pytest.approx(0, abs=1e-6)
        assert row["same_study"] is True
    assert not np.isnan([row["distance"] for row in explain(connection, known[0], known[0])]).any()


@pytest.mark.parametrize("which", [0, 1])
def test_missing_image_is_refused_with_a_hint(connection: psycopg.Connection, known: list[int], which: int) -> None:
    for wrong, kind, message in (
        (10**12, psycopg.errors.NoDataFound, "no image 1000000000000"),
        (None, psycopg.errors.InvalidParameterValue, "two images"),
    ):
        pair: list[int | None] = [known[0], known[0]]
        pair[which] = wrong
        with pytest.raises(kind, match=message) as caught:
            explain(connection, *pair)
        assert "image" in (caught.value.diag.message_hint or "")
