"""Compare cbir.label_suggestions with votes counted by hand and with the precision that a run measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
import pytest
from pgvector import Vector
from psycopg.rows import dict_row

from cbirdb.db.embeddings import find_encoder
from cbirdb.evaluate import EvaluationOptions, evaluate
from tests.support.stored_pictures import Picture, fill, index

COLUMNS = [
    "rank", "label", "votes", "neighbours", "vote_share", "nearest_image_id", "nearest_distance", "class_precision",
    "class_queries", "run_id", "remark", "mode", "complete",
]  # fmt: skip


def suggest(connection: psycopg.Connection, image_id: int, **arguments: object) -> list[dict[str, Any]]:
    given = "".join(f", {name} => %({name})s" for name in arguments)
    cursor = connection.cursor(row_factory=dict_row)
    return cursor.execute(
        f"SELECT * FROM cbir.label_suggestions('toy', image_id => %(image_id)s{given})",
        {"image_id": image_id} | arguments,
    ).fetchall()


def on_a_circle(*degrees: float) -> np.ndarray:
    """Return unit vectors of 2 components at these angles."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


PICTURES = [
    Picture(labels=("a",), split="test"),
    Picture(labels=("b",)),
    Picture(labels=("a", "c")),
    Picture(labels=()),
    Picture(labels=("a",)),
    Picture(labels=("b",)),
]
ANGLES = (0, 10, 20, 30, 40, 170)


def test_label_votes_equal_the_example_worked_by_hand(connection: psycopg.Connection) -> None:
    known = fill(connection, on_a_circle(*ANGLES), PICTURES)
    rows = suggest(connection, known[0], k=4)
    assert [list(row) for row in rows] == [COLUMNS] * 3
    assert [(row["rank"], row["label"], row["votes"], row["neighbours"], row["vote_share"]) for row in rows] == [
        (1, "a", 2, 4, 0.5),
        (2, "b", 1, 4, 0.25),  # before c, because its image is nearer
        (3, "c", 1, 4, 0.25),
    ]
    assert [row["nearest_image_id"] for row in rows] == [known[2], known[1], known[2]]
    assert [row["nearest_distance"] for row in rows] == pytest.approx(
        [1 - np.cos(np.radians(angle)) for angle in (20, 10, 20)], abs=1e-6
    )
    assert {(row["mode"], row["complete"]) for row in rows} == {("exact", True)}
    # k above what exists: those that exist vote.
    assert [(row["label"], row["votes"], row["neighbours"]) for row in suggest(connection, known[0], k=100)] == [
        ("b", 2, 5),
        ("a", 2, 5),
        ("c", 1, 5),
    ]
    assert [row["label"] for row in suggest(connection, known[0], k=1)] == ["b"]
    assert suggest(connection, known[0], k=3, label="c")[0]["neighbours"] == 1
    assert suggest(connection, known[0], image_ids=[known[3]]) == []


def test_negative_and_uncertain_labels_do_not_vote(connection: psycopg.Connection) -> None:
    known = fill(connection, on_a_circle(*ANGLES), PICTURES)
    connection.execute("UPDATE cbir.image_label SET value = -1 WHERE image_id = %s", [known[1]])
    connection.execute("UPDATE cbir.image_label SET value = 0 WHERE image_id = %s", [known[4]])
    assert [(row["label"], row["votes"]) for row in suggest(connection, known[0], k=4)] == [("a", 1), ("c", 1)]


def test_precision_beside_a_label_is_that_of_the_latest_finished_run(connection: psycopg.Connection, dsn: str) -> None:
    angles = (*ANGLES, 5, 165)
    pictures = [*PICTURES, Picture(labels=("a",), split="test"), Picture(labels=("d",), split="test")]
    known = fill(connection, on_a_circle(*angles), pictures)
    assert {row["remark"] for row in suggest(connection, known[0], k=2)} == {
        "no finished evaluation; run: cbirdb evaluate -e toy"
    }
    stored = find_encoder(connection, "toy")
    assert stored is not None

    def run(k: int) -> int:
        return evaluate(
            connection,
            stored,
            EvaluationOptions(k=k, mode="exact"),
            connect=lambda: psycopg.connect(dsn, autocommit=True),
        ).run_id

    run(5)
    latest = run(3)
    connection.execute("UPDATE cbir.search_run SET finished_at = NULL WHERE run_id = %s", [run(4)])
    rows = {row["label"]: row for row in suggest(connection, known[0], k=3)}
    # Of the train images with one label, b at 10, a at 40 and b at 170 degrees, a query of class a has one relevant:
    # n = min(3, 1) = 1, and the nearest is b.
    assert (rows["a"]["class_precision"], rows["a"]["class_queries"], rows["a"]["remark"]) == (0.0, 2, None)
    assert {row["run_id"] for row in rows.values()} == {latest}
    assert rows["b"]["class_precision"] is None
    assert rows["b"]["remark"] == f"run {latest} has no query of this class, or no indexed image"
    assert {row["remark"] for row in suggest(connection, known[0], k=4)} == {f"run {latest} kept 3 neighbours"}
    for label, row in rows.items():
        measured = connection.execute(
            "SELECT micro_precision, queries FROM cbir.precision_by_class WHERE run_id = %s AND n = 3 AND group_name = %s",
            [latest, label],
        ).fetchone()
        assert (row["class_precision"], row["class_queries"]) == (measured or (None, None)), label


def test_suggestions_prefer_a_final_run_and_remark_on_one_that_is_not(connection: psycopg.Connection, dsn: str) -> None:
    angles = (*ANGLES, 5)
    known = fill(connection, on_a_circle(*angles), [*PICTURES, Picture(labels=("a",), split="test")])
    stored = find_encoder(connection, "toy")
    assert stored is not None
    first, second = (
        evaluate(
            connection,
            stored,
            EvaluationOptions(k=k, mode="exact"),
            connect=lambda: psycopg.connect(dsn, autocommit=True),
        ).run_id
        for k in (3, 4)
    )

    def beside_a() -> tuple[int, str | None]:
        (row,) = (row for row in suggest(connection, known[0], k=3) if row["label"] == "a")
        assert row["class_precision"] is not None
        return row["run_id"], row["remark"]

    assert beside_a() == (second, None)
    spoil = "UPDATE cbir.search_run SET not_final = 'the index found 61 %%' WHERE run_id = %s"
    connection.execute(spoil, [second])
    assert beside_a() == (first, None), "the latest that may be relied on"
    connection.execute(spoil, [first])
    connection.execute("UPDATE cbir.search_run SET erased_images = 2")
    assert beside_a() == (second, f"run {second} is not final: the index found 61 %; 2 of its images were erased since")


def test_index_vector_and_uid_lead_to_the_same_suggestions(connection: psycopg.Connection) -> None:
    vectors = on_a_circle(*ANGLES)
    known = fill(connection, vectors, PICTURES)
    exact = [row["label"] for row in suggest(connection, known[0], k=4)]
    index(connection)
    through = suggest(connection, known[0], k=4)
    assert [row["label"] for row in through] == exact
    assert {row["mode"] for row in through} == {"approximate"}
    for start, value in (("sop_uid => %s", "1.2.0"), ("query => %s::vector", Vector(vectors[0]).to_text())):
        rows = connection.execute(
            f"SELECT label FROM cbir.label_suggestions('toy', {start}, k => 4, image_ids => %s)", [value, known[1:]]
        ).fetchall()
        assert [row[0] for row in rows] == exact
