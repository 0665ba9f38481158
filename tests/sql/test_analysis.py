"""Compare the analysis functions with hand-worked examples and independent implementations."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

from cbirdb.errors import InputError
from cbirdb.metrics.confidence import compare
from tests.support.precision_cases import HAND, Case, collections, on_circle, oracle, run, second_encoder, store

FRACTIONS = [0.3, 0.6, 1.0]


def rows(connection: psycopg.Connection, query: str, *values: object) -> list[dict[str, Any]]:
    return connection.cursor(row_factory=dict_row).execute(query.encode(), values).fetchall()


def position(number: int, case: Case, seed: int) -> float:
    digest = hashlib.md5(f"{case.dataset}/{number}/0/{seed}".encode()).hexdigest()
    return int(digest[:8], 16) / 2**32


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases=collections(), seed=st.integers(0, 5))
def test_precision_by_index_size_equals_an_evaluation_of_that_part(
    connection: psycopg.Connection, cases: list[Case], seed: int
) -> None:
    store(connection, cases)
    summary = run(connection, 16)  # k above what is indexed: nothing is undetermined
    found = rows(
        connection, "SELECT * FROM cbir.precision_by_index_size(%s, %s, %s, %s)",
        summary.run_id, FRACTIONS, [1, 2, 5, 16], seed,
    )  # fmt: skip
    assert all(row["undetermined"] == 0 for row in found)
    got = {(row["fraction"], row["n"]): row for row in found}
    for fraction in FRACTIONS:
        # What is not indexed keeps its place in the list, since ties are broken by it, but takes no part.
        part = [
            case if case.split != "train" or position(number, case, seed) < fraction else Case(case.vector, "val")
            for number, case in enumerate(cases)
        ]
        wanted = oracle(part, 16, "run")
        assert {n for part_size, n in got if part_size == fraction} == {n for _, n in wanted} & {1, 2, 5, 16}
        for n in {1, 2, 5, 16} & {n for _, n in wanted}:
            row, right = got[fraction, n], wanted["all", n]
            names = ("micro_precision", "micro_std", "macro_precision", "macro_std", "queries", "classes")
            for name, value in zip(names, right, strict=True):
                assert (row[name] is None) == (value is None), (fraction, n, name)
                assert value is None or row[name] == pytest.approx(value, abs=3e-8), (fraction, n, name)
            assert row["indexed_images"] == sum(case.split == "train" and case.only_label is not None for case in part)


def test_precision_of_the_whole_index_equals_that_of_the_run(connection: psycopg.Connection) -> None:
    store(connection, HAND)
    summary = run(connection, 4)
    (row,) = rows(connection, "SELECT * FROM cbir.precision_by_index_size(%s, '{1}', '{1}')", summary.run_id)
    assert (row["micro_precision"], row["macro_precision"]) == pytest.approx((2 / 3, 3 / 4))
    assert (row["indexed_images"], row["queries"], row["undetermined"]) == (4, 3, 0)


def test_list_too_short_for_a_part_of_the_index_is_undetermined(connection: psycopg.Connection) -> None:
    cases = [Case(on_circle(at), "train", {"A": 1}) for at in range(40)] + [Case(on_circle(0), "test", {"A": 1})]
    store(connection, cases)
    summary = run(connection, 4)
    listed = sum(position(number, cases[number], 0) < 0.5 for number in range(4))
    assert 0 < listed < 4
    got = rows(connection, "SELECT * FROM cbir.precision_by_index_size(%s, '{0.5}', '{1, 4}')", summary.run_id)
    assert [(row["n"], row["queries"], row["undetermined"], row["micro_precision"]) for row in got] == [
        (1, 1, 0, 1.0),
        (4, 0, 1, None),
    ]


def test_indexed_query_does_not_count_itself_as_relevant(connection: psycopg.Connection) -> None:
    store(connection, [Case(on_circle(at), "train", {name: 1}) for at, name in ((0, "A"), (5, "A"), (7, "B"))])
    summary = run(connection, 2, query_split="train")
    got = rows(connection, "SELECT * FROM cbir.precision_by_index_size(%s, '{1}', '{1, 2}')", summary.run_id)
    # The two A have one other A each, which the first finds first and the second too (B is 2 degrees away, A 5: no).
    by_n = {row["n"]: row for row in got}
    assert by_n[1]["micro_precision"] == by_n[2]["micro_precision"] == pytest.approx(1 / 2)
    assert by_n[1]["queries"] == 2


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT * FROM cbir.precision_by_index_size(%s, '{0}')", "every fraction must be above 0"),
        ("SELECT * FROM cbir.precision_by_index_size(%s, '{1.1}')", "every fraction must be above 0"),
        ("SELECT * FROM cbir.precision_by_index_size(%s, '{NULL}')", "every fraction must be above 0"),
        ("SELECT * FROM cbir.precision_by_index_size(%s, '{1}', '{5}')", "N must lie between 1 and 4"),
        ("SELECT * FROM cbir.precision_without_leakage(%s, 0, '{1, 5}')", "N must lie between 1 and 4, .* not 5"),
        ("SELECT * FROM cbir.precision_without_leakage(%s, 0, '{-1}')", "N must lie between 1 and 4"),
        ("SELECT * FROM cbir.precision_without_leakage(%s, 0, '{0}')", "N must lie between 1 and 4"),
        ("SELECT * FROM cbir.knn_prediction(%s, '{0}')", "k must lie between 1 and 4"),
        ("SELECT * FROM cbir.knn_prediction(%s, '{5}')", "k must lie between 1 and 4"),
        ("SELECT * FROM cbir.knn_prediction(%s, '{NULL}')", "k must lie between 1 and 4"),
        ("SELECT * FROM cbir_internal.indexed_image(%s + 999)", "there is no finished run"),
        ("SELECT * FROM cbir.leakage(%s + 999)", "there is no finished run"),
    ],
)
def test_bad_arguments_of_analysis_functions_are_refused_with_a_hint(
    connection: psycopg.Connection, query: str, message: str
) -> None:
    store(connection, HAND)
    summary = run(connection, 4)
    with pytest.raises(psycopg.Error, match=message) as caught:
        rows(connection, query, summary.run_id)
    assert caught.value.diag.message_hint


@pytest.mark.parametrize("change", ["DELETE FROM cbir.embedding_toy", "UPDATE cbir.image SET split = 'val'"])
def test_analysis_refuses_a_run_that_has_lost_images(connection: psycopg.Connection, change: str) -> None:
    store(connection, HAND)
    summary = run(connection, 4)
    connection.execute(f"{change} WHERE image_id = (SELECT min(image_id) FROM cbir.image)".encode())
    for function in ("precision_by_index_size(%s)", "knn_accuracy(%s, '{1}')", "leakage(%s)"):
        with pytest.raises(psycopg.Error, match="searched 4 images, but the same selection has 3 images now") as caught:
            rows(connection, f"SELECT * FROM cbir.{function}", summary.run_id)
        assert "Run cbirdb evaluate again" in (caught.value.diag.message_hint or "")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE cbir.image_label SET label_id = (SELECT max(label_id) FROM cbir.label WHERE label_id <> image_label.label_id)",
        "UPDATE cbir.image SET patient_id = (SELECT max(patient_id) FROM cbir.patient)",
    ],
)
def test_analysis_refuses_a_run_whose_images_have_other_labels_or_patients(
    connection: psycopg.Connection, change: str
) -> None:
    store(connection, HAND)
    connection.execute("INSERT INTO cbir.patient (dataset_id, pseudonym) SELECT min(dataset_id), 'new' FROM cbir.image")
    summary = run(connection, 4)
    connection.execute(
        f"{change} WHERE image_id = (SELECT min(image_id) FROM cbir_internal.indexed_image(%s))".encode(),
        [summary.run_id],
    )
    with pytest.raises(psycopg.Error, match="have changed since the run") as caught:
        rows(connection, "SELECT * FROM cbir.knn_accuracy(%s, '{1}')", summary.run_id)
    assert caught.value.diag.message_hint


def test_index_size_and_knn_refuse_a_run_under_any_label(connection: psycopg.Connection) -> None:
    store(connection, HAND)
    summary = run(connection, 4, protocol="any-label")
    for function in ("precision_by_index_size(%s)", "knn_accuracy(%s, '{1}')"):
        with pytest.raises(psycopg.Error, match='has protocol "any-label"'):
            rows(connection, f"SELECT * FROM cbir.{function}", summary.run_id)


# --- kNN -------------------------------------------------------------------------------------------------------------


def test_knn_accuracy_equals_the_example_worked_by_hand(connection: psycopg.Connection) -> None:
    """HAND's lists: q1 (A) a1 b1 a2 b2; q2 (A) b1 a2 a1 b2; q3 (B) b2 a2 b1 a1; q4 (C) a1 b1 a2 b2 (5 deg: b1 or a1 first).

    k=1: A, B, B, tie of a1 and b1 by distance -> a1's id first: A. k=3: A, A, B, A. k=4: ties 2:2, the nearest decides.
    """
    store(connection, HAND)
    summary = run(connection, 4)
    got = {
        row["k"]: row for row in rows(connection, "SELECT * FROM cbir.knn_accuracy(%s, '{1, 3, 4}')", summary.run_id)
    }
    assert {
        k: (row["accuracy"], row["balanced_accuracy"], row["queries"], row["classes"]) for k, row in got.items()
    } == {
        1: (pytest.approx(2 / 4), pytest.approx((1 / 2 + 1 + 0) / 3), 4, 3),
        3: (pytest.approx(3 / 4), pytest.approx((1 + 1 + 0) / 3), 4, 3),
        4: (pytest.approx(2 / 4), pytest.approx((1 / 2 + 1 + 0) / 3), 4, 3),
    }


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases=collections(), k=st.integers(1, 8))
def test_knn_prediction_equals_an_independent_implementation(
    connection: psycopg.Connection, cases: list[Case], k: int
) -> None:
    ids = store(connection, cases)
    summary = run(connection, 8)
    indexed = [(n, case) for n, case in enumerate(cases) if case.split == "train" and case.only_label]
    wanted = {}
    for number, query in enumerate(cases):
        if query.split != "test" or query.only_label is None:
            continue
        gaps = {n: 1 - float(np.dot(np.array(case.vector), np.array(query.vector))) for n, case in indexed}
        nearest = [str(case.only_label) for n, case in sorted(indexed, key=lambda pair: (gaps[pair[0]], pair[0]))[:k]]
        votes = Counter(nearest)
        wanted[ids[number]] = max(votes, key=lambda name: (votes[name], -nearest.index(name)))
    found = connection.execute(
        "SELECT p.query_image_id, l.name FROM cbir.knn_prediction(%s, ARRAY[%s]) AS p"
        " JOIN cbir.label AS l ON l.label_id = p.predicted_label_id",
        [summary.run_id, k],
    ).fetchall()
    assert dict(found) == wanted


# --- Anatomy ---------------------------------------------------------------------------------------------------------


def test_pathology_against_anatomy_equals_the_example_worked_by_hand(connection: psycopg.Connection) -> None:
    # One query XR/chest A; nearest first: XR/chest A, XR/chest B, XR/knee C, CT/chest D.
    cases = [
        Case(on_circle(1), "train", {"A": 1}), Case(on_circle(2), "train", {"B": 1}),
        Case(on_circle(3), "train", {"C": 1}, region="knee"), Case(on_circle(4), "train", {"D": 1}, modality="CT"),
        Case(on_circle(0), "test", {"A": 1}), Case(on_circle(0.5), "test", {"A": 1}, modality=None),
    ]  # fmt: skip
    store(connection, cases)
    run(connection, 4)
    got = rows(
        connection, "SELECT * FROM cbir.pathology_against_anatomy WHERE n IN (1, 2, 4) ORDER BY group_name, n"
    )  # fmt: skip
    assert rows(connection, "SELECT * FROM cbir.anatomy_up_to(2) ORDER BY group_name, n") == [
        row for row in got if row["n"] <= 2
    ]
    names = ("same_modality", "same_region", "same_finding", "other_finding", "finding_in_region", "queries")
    figures = {(row["group_name"], row["n"]): tuple(row[name] for name in names) for row in got}
    assert figures["XR/chest", 1] == pytest.approx((1, 1, 1, 0, 1, 1))
    assert figures["XR/chest", 2] == pytest.approx((1, 1, 1 / 2, 1 / 2, 1 / 2, 1))
    assert figures["XR/chest", 4] == pytest.approx((3 / 4, 2 / 4, 1 / 4, 1 / 4, 1 / 2, 1))
    # The query without a modality finds its label but no anatomy of its own.
    assert figures["(none)/chest", 1] == (0, 0, 1, 0, None, 1)
    assert figures["all", 2] == pytest.approx((1 / 2, 1 / 2, 1 / 2, 1 / 4, 1 / 2, 2))


# --- Leakage ---------------------------------------------------------------------------------------------------------


def leaky(connection: psycopg.Connection) -> list[int]:
    """One query of patient 1 (A, at 0 degrees); indexed, nearest first: a nearly identical B (0.01 degrees), an A with
    the same file (1), an A of the same patient (2), an A (3), a B (4). A second query, without patient or file, at 90.
    """
    ids = store(connection, [
        Case(on_circle(0.01), "train", {"B": 1}), Case(on_circle(1), "train", {"A": 1}),
        Case(on_circle(2), "train", {"A": 1}), Case(on_circle(3), "train", {"A": 1}),
        Case(on_circle(4), "train", {"B": 1}),
        Case(on_circle(0), "test", {"A": 1}), Case(on_circle(90), "test", {"B": 1}),
    ])  # fmt: skip
    connection.execute(
        "INSERT INTO cbir.patient (dataset_id, pseudonym) SELECT dataset_id, 'p' FROM cbir.dataset;"
        " UPDATE cbir.image SET patient_id = (SELECT patient_id FROM cbir.patient)"
        f" WHERE image_id IN ({ids[2]}, {ids[5]});"
        f" UPDATE cbir.image SET sha256 = '\\x01' WHERE image_id IN ({ids[1]}, {ids[5]})".encode()
    )
    return ids


def test_leakage_equals_the_example_worked_by_hand(connection: psycopg.Connection) -> None:
    ids = leaky(connection)
    summary = run(connection, 5)
    found = connection.execute(
        "SELECT query_image_id, image_id, cause FROM cbir.leaking_image(%s, 1e-6)", [summary.run_id]
    ).fetchall()
    assert sorted(found) == [
        (ids[5], ids[0], "nearly identical"), (ids[5], ids[1], "identical file"), (ids[5], ids[2], "same patient"),
    ]  # fmt: skip
    got = rows(connection, "SELECT * FROM cbir.leakage(%s, 1e-6)", summary.run_id)
    assert [(r["cause"], r["queries"], r["touched"], r["share"], r["images"], r["unknown"]) for r in got] == [
        ("same patient", 2, 1, 0.5, 1, 1),
        ("identical file", 2, 1, 0.5, 1, 1),
        ("nearly identical", 2, 1, 0.5, 1, 0),
        ("any of these", 2, 1, 0.5, 3, 0),
    ]


def test_precision_without_leakage_equals_the_example_worked_by_hand(connection: psycopg.Connection) -> None:
    """First query: B A A A B, three relevant: P@1 0, P@3 2/3. Without what leaks: A B, one relevant: P@1 1, P@3 1.
    Second (B): nearest first at 4, 3, 2, 1, 0.01 degrees: B A A A B, two relevant: P@1 1, P@3 (n = 2) 1/2.
    """
    leaky(connection)
    summary = run(connection, 5)
    got = rows(connection, "SELECT * FROM cbir.precision_without_leakage(%s, 1e-6, '{1, 3}')", summary.run_id)
    assert [(r["variant"], r["n"], r["micro_precision"], r["macro_precision"], r["queries"]) for r in got] == [
        ("all", 1, pytest.approx(1 / 2), pytest.approx(1 / 2), 2),
        ("all", 3, pytest.approx((2 / 3 + 1 / 2) / 2), pytest.approx((2 / 3 + 1 / 2) / 2), 2),
        ("without touched queries", 1, pytest.approx(1), pytest.approx(1), 1),
        ("without touched queries", 3, pytest.approx(1 / 2), pytest.approx(1 / 2), 1),
        ("without leaking images", 1, pytest.approx(1), pytest.approx(1), 2),
        ("without leaking images", 3, pytest.approx(3 / 4), pytest.approx(3 / 4), 2),
    ]
    assert all(row["undetermined"] == 0 for row in got)


def test_list_too_short_without_its_leaks_is_undetermined(connection: psycopg.Connection) -> None:
    ids = store(connection, [Case(on_circle(at), "train", {"A": 1}) for at in range(6)] + [
        Case(on_circle(0), "test", {"A": 1})
    ])  # fmt: skip
    connection.execute("UPDATE cbir.image SET sha256 = '\\x01' WHERE image_id = ANY(%s)", [[ids[0], ids[1], ids[6]]])
    summary = run(connection, 3)
    got = rows(connection, "SELECT * FROM cbir.precision_without_leakage(%s, 1e-9, '{1, 3}')", summary.run_id)
    assert [
        (r["n"], r["micro_precision"], r["undetermined"]) for r in got if r["variant"] == "without leaking images"
    ] == [
        (1, 1.0, 0),
        (3, None, 1),
    ]


def test_patient_that_the_run_left_out_does_not_leak(connection: psycopg.Connection) -> None:
    leaky(connection)
    summary = run(connection, 5, same_patient=False)
    causes = connection.execute("SELECT cause FROM cbir.leaking_image(%s, 1e-6)", [summary.run_id]).fetchall()
    assert sorted(causes) == [("identical file",), ("nearly identical",)]


def test_leakage_under_any_label_equals_the_example_worked_by_hand(connection: psycopg.Connection) -> None:
    # The query carries A and B. Nearest first: A (same file), B, AB, C.
    ids = store(connection, [
        Case(on_circle(1), "train", {"A": 1}), Case(on_circle(2), "train", {"B": 1}),
        Case(on_circle(3), "train", {"A": 1, "B": 1}), Case(on_circle(4), "train", {"C": 1}),
        Case(on_circle(0), "test", {"A": 1, "B": 1}),
    ])  # fmt: skip
    connection.execute("UPDATE cbir.image SET sha256 = '\\x01' WHERE image_id = ANY(%s)", [[ids[0], ids[4]]])
    summary = run(connection, 4, protocol="any-label")
    got = rows(connection, "SELECT * FROM cbir.precision_without_leakage(%s, 1e-9, '{1, 2}')", summary.run_id)
    figures = {(r["variant"], r["n"]): (r["micro_precision"], r["macro_precision"], r["classes"]) for r in got}
    # All: micro 1, 1. A: 1, then A B = 1/2; B: 0, 1/2. Without the first: micro 1, 1; A has one relevant left (AB), found
    # second: n = min(N, 1) = 1 -> 0; B: 1, then B AB = 1.
    assert figures["all", 1] == pytest.approx((1, 1 / 2, 2))
    assert figures["all", 2] == pytest.approx((1, 1 / 2, 2))
    assert figures["without leaking images", 1] == pytest.approx((1, 1 / 2, 2))
    assert figures["without leaking images", 2] == pytest.approx((1, 1 / 2, 2))
    assert ("without touched queries", 1) not in figures


def test_split_leakage_lists_splits_that_share_patients_or_files(connection: psycopg.Connection) -> None:
    leaky(connection)
    assert rows(connection, "SELECT * FROM cbir.split_leakage ORDER BY cause") == [
        {
            "cause": cause, "dataset_a": "one", "split_a": "test", "dataset_b": "one", "split_b": "train",
            "shared": 1, "images_a": 1, "images_b": 1,
        }
        for cause in ("identical file", "same patient")
    ]  # fmt: skip


# --- Cells and comparisons -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["paper", "any-label"])
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases=collections())
def test_scored_lists_add_up_to_the_means_of_the_views(
    connection: psycopg.Connection, protocol: str, cases: list[Case]
) -> None:
    store(connection, cases)
    run(connection, 3, protocol=protocol)
    for by in ("run", "class", "dataset", "modality", "anatomic_region"):
        check_cells(connection, by)


def check_cells(connection: psycopg.Connection, by: str) -> None:
    sums: dict[tuple[str, int], list[tuple[Any, float, int]]] = defaultdict(list)
    for name, n, label, total, number in connection.execute(
        "SELECT group_name, n, label_id, cbir_internal.modified_precision(hits, n, relevant_count), 1"
        " FROM cbir.search_run AS r CROSS JOIN LATERAL cbir.scored_list(%s, r.run_id), generate_series(1, 3) AS n"
        " WHERE r.finished_at IS NOT NULL",
        [by],
    ):
        sums[name, n].append((label, total, number))
    views = rows(connection, f"SELECT * FROM cbir.precision_by_{by}")
    assert set(sums) == {(row["group_name"], row["n"]) for row in views}
    for row in views:
        cells = sums[row["group_name"], row["n"]]
        whole = [cell for cell in cells if cell[0] is None] or cells
        assert sum(c[1] for c in whole) / sum(c[2] for c in whole) == pytest.approx(row["micro_precision"])
        of_label: dict[Any, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for label, total, number in cells:
            if label is not None:
                of_label[label][0] += total
                of_label[label][1] += number
        assert np.mean([total / number for total, number in of_label.values()]) == pytest.approx(row["macro_precision"])


def test_comparison_equals_the_example_worked_by_hand(connection: psycopg.Connection) -> None:
    """The other encoder mirrors q2 to 1 degree: its P@1 is 1, 1, 1. Of HAND: 1, 0, 1.

    Differences (HAND - other) 0, -1, 0: micro -1/3, macro ((0 - 1)/2 + 0)/2 = -1/4. Of the 8 arrangements of signs all are
    as far out as the observed: p = 1.
    """
    ids = store(connection, HAND)
    run(connection, 4)
    vectors = [on_circle(at) for at in (0, 10, 20, 90, 1, 1, 80, 5)]
    second_encoder(connection, ids, vectors)
    found, notes = compare(connection, ["toy", "other"], cutoffs=[1], resamples=200)
    assert notes == ["toy against other: 3 of 4 queries have a precision under both."]  # none is of class C
    micro, macro = found
    assert [micro[name] for name in ("precision_a", "precision_b", "difference")] == pytest.approx([2 / 3, 1, -1 / 3])
    assert [macro[name] for name in ("precision_a", "precision_b", "difference")] == pytest.approx([3 / 4, 1, -1 / 4])
    assert (micro["p"], micro["p_holm"], macro["p"]) == (1, 1, 1)
    assert (micro["queries"], micro["clusters"]) == (3, 3)
    assert micro["low"] == -1
    assert micro["high"] == 0


def test_queries_that_only_one_encoder_has_are_left_out_of_a_comparison(connection: psycopg.Connection) -> None:
    ids = store(connection, HAND)
    run(connection, 4)
    second_encoder(connection, ids[:5] + ids[6:], [on_circle(at) for at in (0, 10, 20, 90, 1, 80, 5)])
    found, notes = compare(connection, ["toy", "other"], cutoffs=[1], resamples=200)
    assert {row["queries"] for row in found} == {2}
    assert [row["difference"] for row in found] == [0, 0]
    assert "2 of 4 queries have a precision under both" in notes[0]


def test_compare_refuses_runs_of_different_protocols_and_one_encoder_twice(connection: psycopg.Connection) -> None:
    ids = store(connection, HAND)
    run(connection, 4, protocol="any-label")
    second_encoder(connection, ids, [case.vector for case in HAND])
    with pytest.raises(InputError, match="differ in their protocol: any-label and paper"):
        compare(connection, ["toy", "other"], cutoffs=[1])
    with pytest.raises(InputError, match="needs two encoders"):
        compare(connection, ["toy", "toy"], cutoffs=[1])
