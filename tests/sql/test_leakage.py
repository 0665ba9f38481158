"""Test which images leak the answer to a query: the same patient, the same file, a nearly identical picture."""

from __future__ import annotations

import psycopg
import pytest

from tests.support.precision_cases import Case, on_circle, run, store

A, B, QUERY = 0, 1, 2
"""Places in ``pair``: two indexed images and the query."""


@pytest.fixture
def pair(connection: psycopg.Connection) -> list[int]:
    """Store two indexed images at 1 and 2 degrees and a query at 0, with unknown patients and files."""
    return store(
        connection, [Case(on_circle(at), split, {"A": 1}) for at, split in ((1, "train"), (2, "train"), (0, "test"))]
    )


def mark(connection: psycopg.Connection, ids: list[int], **of_images: dict[int, str]) -> None:
    """Give images, by place, a file (the bytes of its hash) or a patient."""
    for place, file in of_images.get("file", {}).items():
        connection.execute("UPDATE cbir.image SET sha256 = %s WHERE image_id = %s", [file.encode(), ids[place]])
    for place, name in of_images.get("patient", {}).items():
        connection.execute(
            "INSERT INTO cbir.patient (dataset_id, pseudonym) SELECT dataset_id, %s FROM cbir.dataset ON CONFLICT DO NOTHING",
            [name],
        )
        connection.execute(
            "UPDATE cbir.image SET patient_id = (SELECT patient_id FROM cbir.patient WHERE pseudonym = %s) WHERE image_id = %s",
            [name, ids[place]],
        )


def leaks(connection: psycopg.Connection, run_id: int, near_distance: float = 0) -> list[tuple[int, str]]:
    found = connection.execute(
        "SELECT image_id, cause FROM cbir.leaking_image(%s, %s)", [run_id, near_distance]
    ).fetchall()
    return sorted(found)


@pytest.mark.parametrize(
    ("patients", "leaking"),
    [
        ({}, True),
        ({QUERY: "p"}, True),
        ({A: "p"}, True),
        ({A: "p", QUERY: "q"}, True),
        ({A: "p", QUERY: "p"}, False),
    ],
    ids=["both unknown", "the query's known", "the other's known", "two patients", "one patient"],
)
def test_same_file_leaks_unless_the_run_leaves_out_its_patient(
    connection: psycopg.Connection, pair: list[int], patients: dict[int, str], leaking: bool
) -> None:
    mark(connection, pair, file={A: "x", B: "y", QUERY: "x"}, patient=patients)
    summary = run(connection, 2, same_patient=False)
    assert leaks(connection, summary.run_id) == ([(pair[A], "identical file")] if leaking else [])


def test_run_that_may_find_the_own_patient_lists_every_cause_of_a_leak(
    connection: psycopg.Connection, pair: list[int]
) -> None:
    mark(connection, pair, file={A: "x", QUERY: "x"}, patient={A: "p", B: "p", QUERY: "p"})
    summary = run(connection, 2)
    assert leaks(connection, summary.run_id) == sorted(
        [(pair[A], "identical file"), (pair[A], "same patient"), (pair[B], "same patient")]
    )


def test_images_with_unknown_file_and_patient_do_not_leak(connection: psycopg.Connection, pair: list[int]) -> None:
    assert leaks(connection, run(connection, 2).run_id) == []


def test_indexed_query_does_not_leak_to_itself(connection: psycopg.Connection, pair: list[int]) -> None:
    mark(connection, pair, file={A: "x"}, patient={A: "p"})
    assert leaks(connection, run(connection, 2, query_split="train").run_id) == []


def test_neighbour_at_the_given_distance_is_nearly_identical(connection: psycopg.Connection, pair: list[int]) -> None:
    summary = run(connection, 2)
    row = connection.execute("SELECT distances::double precision[] FROM cbir.search_result").fetchone()
    assert row is not None
    first, second = row[0]
    assert leaks(connection, summary.run_id, first) == [(pair[A], "nearly identical")]
    assert leaks(connection, summary.run_id, second) == [(image, "nearly identical") for image in pair[:2]]
    assert leaks(connection, summary.run_id, first / 2) == []


def test_queries_with_equal_lists_are_each_counted(connection: psycopg.Connection) -> None:
    """Three queries, two of which have the same vector and label: P@1 is 1, 1 and 0, whatever leaks is left out."""
    store(connection, [
        Case(on_circle(1), "train", {"A": 1}), Case(on_circle(9), "train", {"B": 1}),
        Case(on_circle(0), "test", {"A": 1}), Case(on_circle(0), "test", {"A": 1}), Case(on_circle(8), "test", {"A": 1}),
    ])  # fmt: skip
    summary = run(connection, 2)
    found = connection.execute(
        "SELECT variant, micro_precision, queries FROM cbir.precision_without_leakage(%s, 0, '{1}')", [summary.run_id]
    ).fetchall()
    assert found == [
        (variant, pytest.approx(2 / 3), 3) for variant in ("all", "without touched queries", "without leaking images")
    ]


def test_full_list_without_its_leaking_image_counts_as_far_as_it_reaches(connection: psycopg.Connection) -> None:
    """Of five relevant images three are stored, and one of those leaks: two are left, so P@3 is undetermined."""
    cases = [Case(on_circle(at), "train", {"A": 1}) for at in range(1, 6)] + [Case(on_circle(0), "test", {"A": 1})]
    ids = store(connection, cases)
    mark(connection, ids, file={0: "x", 5: "x"})
    found = connection.execute(
        "SELECT n, micro_precision, queries, undetermined FROM cbir.precision_without_leakage(%s, 0, '{1,2,3}')"
        " WHERE variant = 'without leaking images' ORDER BY n",
        [run(connection, 3).run_id],
    ).fetchall()
    assert found == [(1, 1, 1, 0), (2, 1, 1, 0), (3, None, 0, 1)]


def test_full_list_without_a_hit_counts_as_zero_in_every_variant(connection: psycopg.Connection) -> None:
    """The two nearest are of another class, and nothing leaks."""
    store(connection, [
        Case(on_circle(1), "train", {"B": 1}), Case(on_circle(2), "train", {"B": 1}), Case(on_circle(9), "train", {"A": 1}),
        Case(on_circle(0), "test", {"A": 1}),
    ])  # fmt: skip
    found = connection.execute(
        "SELECT variant, n, micro_precision, queries, undetermined"
        " FROM cbir.precision_without_leakage(%s, 0, '{1,2}') ORDER BY variant, n",
        [run(connection, 2).run_id],
    ).fetchall()
    variants = ("all", "without leaking images", "without touched queries")
    assert found == [(variant, n, 0, 1, 0) for variant in variants for n in (1, 2)]
