"""Test that equal distances are ordered by id, wherever the tie lies and in whatever order rows are stored."""

from __future__ import annotations

import numpy as np
import psycopg
import pytest

from tests.support.stored_pictures import Picture, fill, ids, put_in_studies, search, unit

SAME = 30


@pytest.fixture
def tied(connection: psycopg.Connection) -> list[int]:
    """Store images with the same vector, whose rows lie in the table by descending id."""
    known = sorted(fill(connection, np.repeat(unit(1), SAME, axis=0), [Picture(labels=("a",))] * SAME))
    put_in_studies(connection, known, [f"s{n:02}" for n in range(SAME)])
    connection.execute("CREATE TEMPORARY TABLE held AS SELECT * FROM cbir.embedding_toy")
    connection.execute("TRUNCATE cbir.embedding_toy")
    connection.execute("INSERT INTO cbir.embedding_toy SELECT * FROM held ORDER BY image_id DESC")
    return known


@pytest.mark.parametrize("filters", [{}, {"label": "a"}, {"modality": "XR"}])
@pytest.mark.parametrize("mode", ["exact", "auto"])
def test_tie_at_rank_k_goes_to_the_lowest_image_ids(
    connection: psycopg.Connection, tied: list[int], mode: str, filters: dict[str, str]
) -> None:
    assert ids(search(connection, unit(1)[0], k=7, mode=mode, **filters)) == tied[:7]
    assert ids(search(connection, tied[3], k=4, mode=mode, **filters)) == [tied[n] for n in (0, 1, 2, 4)]


def test_equally_near_studies_are_ordered_by_id(connection: psycopg.Connection, tied: list[int]) -> None:
    found = connection.execute(
        "SELECT study_uid, image_id FROM cbir.similar_studies('toy', study_uid => 's05', k => 6) ORDER BY rank"
    ).fetchall()
    assert found == [(f"s{n:02}", tied[n]) for n in (0, 1, 2, 3, 4, 6)]


def test_tie_within_a_study_goes_to_the_lowest_image_id(connection: psycopg.Connection, tied: list[int]) -> None:
    """This holds for the query's images and for those of the other study."""
    studies = connection.execute("SELECT study_id FROM cbir.study ORDER BY study_id").fetchall()
    for study, images in ((studies[0][0], tied[:5]), (studies[5][0], tied[5:])):
        connection.execute("UPDATE cbir.image SET study_id = %s WHERE image_id = ANY(%s)", [study, images])
    found = connection.execute(
        "SELECT study_uid, query_image_id, image_id, images FROM cbir.similar_studies('toy', study_uid => 's05', m => 3)"
    ).fetchall()
    assert found == [("s00", tied[5], tied[0], 5)]


def test_labels_with_equal_votes_and_distance_are_ordered_by_name(
    connection: psycopg.Connection, tied: list[int]
) -> None:
    for name, image in (("c", 0), ("b", 1)):
        connection.execute("INSERT INTO cbir.label (name) VALUES (%s)", [name])
        connection.execute(
            "UPDATE cbir.image_label SET label_id = (SELECT label_id FROM cbir.label WHERE name = %s) WHERE image_id = %s",
            [name, tied[image]],
        )
    found = connection.execute(
        "SELECT label, votes FROM cbir.label_suggestions('toy', image_id => %s, k => 4) ORDER BY rank", [tied[9]]
    ).fetchall()
    assert found == [("a", 2), ("b", 1), ("c", 1)]
