"""Test that negative (0) and uncertain (-1) labels never count as labels of an image."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

from tests.support.stored_pictures import Picture, fill, ids, index, put_in_studies, search, unit

NUMBER = 240


@pytest.fixture
def labelled(connection: psycopg.Connection) -> list[int]:
    """Store images with label a or a/b: four positive, four negative and four uncertain."""
    pictures = [Picture(labels=(("a",), ("a/b",))[n % 2]) if n < 12 else Picture() for n in range(NUMBER)]
    known = fill(connection, unit(NUMBER), pictures)
    for place, value in ((4, 0), (8, -1)):
        connection.execute(
            "UPDATE cbir.image_label SET value = %s WHERE image_id = ANY(%s)", [value, known[place : place + 4]]
        )
    put_in_studies(connection, known[:12], ["query", *[f"s{n}" for n in range(1, 12)]])
    for table in ("image", "image_label", "label", "embedding_toy"):
        connection.execute(sql.SQL("ANALYZE cbir.{}").format(sql.Identifier(table)))
    return known


@pytest.mark.parametrize(("label", "positive"), [("a", [0, 1, 2, 3]), ("a/b", [1, 3])])
@pytest.mark.parametrize("with_index", [False, True])
@pytest.mark.parametrize("mode", ["exact", "auto", "approximate"])
def test_search_by_label_finds_only_images_that_have_it_as_positive(
    connection: psycopg.Connection, labelled: list[int], mode: str, with_index: bool, label: str, positive: list[int]
) -> None:
    if with_index:
        index(connection)
    elif mode == "approximate":
        mode = "exact"
    wanted = sorted(labelled[n] for n in positive)
    assert sorted(ids(search(connection, unit(1, seed=3)[0], k=50, mode=mode, label=label))) == wanted
    # Beside a condition that the label's own index knows nothing of.
    assert sorted(ids(search(connection, unit(1, seed=3)[0], k=50, mode=mode, label=label, modality="XR"))) == wanted


def test_index_walk_skips_images_with_a_negative_or_uncertain_label(
    connection: psycopg.Connection,
) -> None:
    fill(connection, unit(NUMBER), [Picture(labels=("many",))] * NUMBER)
    connection.execute("UPDATE cbir.image_label SET value = -(image_id % 2) WHERE image_id % 4 < 2")
    connection.execute("ANALYZE cbir.image, cbir.image_label, cbir.embedding_toy")
    index(connection)
    found = search(connection, unit(1, seed=3)[0], k=10, mode="approximate", label="many")
    assert {row["mode"] for row in found} == {"approximate"}
    assert len(found) == 10
    assert {image % 4 for image in ids(found)} == {2, 3}


@pytest.mark.parametrize(("label", "positive"), [("a", [0, 1, 2, 3]), ("a/b", [1, 3])])
def test_few_matching_images_contain_only_positive_labels(
    connection: psycopg.Connection, labelled: list[int], label: str, positive: list[int]
) -> None:
    filters = "ROW(NULL, NULL, NULL, %s, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::cbir.image_filter"
    few = connection.execute(
        f"SELECT cbir_internal.few_matching_images({filters}, %s)", [label, len(positive)]
    ).fetchone()
    assert few is not None
    assert sorted(few[0]) == sorted(labelled[n] for n in positive)
    too_many = connection.execute(
        f"SELECT cbir_internal.few_matching_images({filters}, %s)", [label, len(positive) - 1]
    )
    assert too_many.fetchone() == (None,)
    matching = connection.execute(f"SELECT image_id FROM cbir_internal.matching_image({filters})", [label]).fetchall()
    assert sorted(row[0] for row in matching) == sorted(few[0])


def test_results_show_only_positive_labels(connection: psycopg.Connection, labelled: list[int]) -> None:
    right = {image: [] if n > 3 else [("a", "a/b")[n % 2]] for n, image in enumerate(labelled)}
    found = {row["image_id"]: row["labels"] for row in search(connection, unit(1, seed=3)[0], k=NUMBER)}
    assert found == right
    assert dict(connection.execute("SELECT image_id, labels FROM cbir.image_overview").fetchall()) == right
    studies = connection.execute(
        "SELECT image_id, labels FROM cbir.similar_studies('toy', study_uid => 'query', k => 20)"
    ).fetchall()
    assert dict(studies) == {image: right[image] for image in labelled[1:12]}


def test_only_positive_labels_vote(connection: psycopg.Connection, labelled: list[int]) -> None:
    found = connection.execute(
        "SELECT label, votes, neighbours FROM cbir.label_suggestions('toy', image_id => %s, k => 11, image_ids => %s)",
        [labelled[0], labelled[:12]],
    ).fetchall()
    assert found == [("a/b", 2, 11), ("a", 1, 11)]


@pytest.mark.parametrize(
    ("a", "b", "shared", "only_a", "only_b"),
    [
        (0, 2, ["a"], [], []),
        (0, 4, [], ["a"], []),
        (8, 1, [], [], ["a/b"]),
        (4, 8, [], [], []),
    ],
)
def test_explain_match_compares_only_positive_labels(
    connection: psycopg.Connection, labelled: list[int], a: int, b: int, shared: list[str], only_a: list[str], only_b: list[str]
) -> None:  # fmt: skip
    row = connection.execute("SELECT * FROM cbir.explain_match(%s, %s)", [labelled[a], labelled[b]]).fetchone()
    assert row is not None
    assert list(row[3:6]) == [shared, only_a, only_b]
