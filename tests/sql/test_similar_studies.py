"""Compare cbir.similar_studies with a NumPy oracle, exactly and through a real HNSW index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from psycopg.rows import dict_row

from tests.support.stored_pictures import Picture, exact_vectors, fill, index, index_name, put_in_studies, scans, unit

COLUMNS = [
    "rank", "study_id", "study_uid", "similarity", "query_image_id", "image_id", "pair_similarity", "images", "labels",
    "study_date", "dataset", "mode", "complete",
]  # fmt: skip


def similar(connection: psycopg.Connection, study_uid: str | None, **arguments: object) -> list[dict[str, Any]]:
    given = "".join(f", {name} => %({name})s" for name in arguments)
    cursor = connection.cursor(row_factory=dict_row)
    return cursor.execute(
        f"SELECT * FROM cbir.similar_studies('toy', study_uid => %(uid)s{given})", {"uid": study_uid} | arguments
    ).fetchall()


def uids(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [row["study_uid"] for row in rows]


def oracle(
    vectors: NDArray[np.float32],
    known: Sequence[int],
    studies: Sequence[str | None],
    patients: Sequence[str | None],
    query: str,
    m: int,
) -> list[tuple[str, float, int, int]]:
    """Return study, mean distance of the m best pairs, and the best pair, without the query's patients."""
    distances = 1 - vectors.astype(float) @ vectors.T.astype(float)
    own = [n for n, study in enumerate(studies) if study == query]
    left_out = {patients[n] for n in own} - {None}
    found = []
    for study in sorted({study for study in studies if study not in {None, query}}):
        members = [n for n, other in enumerate(studies) if other == study]
        if left_out & {patients[n] for n in members}:
            continue
        best = sorted((min(distances[q, n] for n in members), q) for q in own)
        nearest = min(members, key=lambda n, q=best[0][1]: (distances[q, n], known[n]))
        mean = sum(gap for gap, _ in best[:m]) / len(best[:m])
        found.append((study, mean, known[best[0][1]], known[nearest]))
    return sorted(found, key=lambda row: (row[1], row[0]))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(vectors=exact_vectors(), k=st.integers(1, 8), m=st.integers(1, 4), data=st.data())
def test_exact_study_search_equals_numpy(
    connection: psycopg.Connection, vectors: NDArray[np.float32], k: int, m: int, data: st.DataObject
) -> None:
    several = st.lists(st.sampled_from(["a", "b", "c", "d", None]), min_size=len(vectors), max_size=len(vectors))
    studies = ["query", *data.draw(several)[1:]]
    # A study is of one patient: by its name.
    owners = {name: data.draw(st.sampled_from(["p", "q", None])) for name in ("query", "a", "b", "c", "d")}
    patients = [owners.get(study or "") for study in studies]
    with connection.transaction(force_rollback=True):
        known = fill(connection, vectors, [Picture(patient=patient) for patient in patients], precision="single")
        put_in_studies(connection, known, studies)
        wanted = oracle(vectors, known, studies, patients, "query", m)[:k]
        found = similar(connection, "query", k=k, m=m)
        assert [(row["study_uid"], row["query_image_id"], row["image_id"]) for row in found] == [
            (study, query, image) for study, _, query, image in wanted
        ]
        assert [1 - row["similarity"] for row in found] == pytest.approx([mean for _, mean, _, _ in wanted], abs=1e-12)
        assert [row["rank"] for row in found] == list(range(1, len(wanted) + 1))
        assert all(row["complete"] and row["mode"] == "exact" for row in found)


def test_result_rows_describe_what_is_stored(connection: psycopg.Connection) -> None:
    vectors = unit(5)
    pictures = [Picture(), Picture("two", ("b",)), Picture("two", ("a", "b")), Picture("two"), Picture("two", ("c",))]
    known = fill(connection, vectors, pictures)
    put_in_studies(connection, known, ["query", "other", "other", "other", None])
    (row,) = similar(connection, "query")
    assert list(row) == COLUMNS
    distances = 1 - vectors[1:4].astype(float) @ vectors[0].astype(float)
    assert row["similarity"] == row["pair_similarity"] == pytest.approx(1 - distances.min(), abs=1e-6)
    assert (row["query_image_id"], row["image_id"]) == (known[0], known[1 + int(distances.argmin())])
    assert (row["dataset"], row["labels"], row["images"]) == ("two", ["a", "b"], 3)
    assert (str(row["study_date"]), row["mode"], row["complete"]) == ("2020-01-01", "exact", True)


def test_every_field_of_a_full_filter_counts(connection: psycopg.Connection) -> None:
    fits = Picture("one", ("a",), "train", "XR", "chest")
    known = fill(connection, unit(4), [fits, fits, Picture("one", ("a",), "train", "CT", "chest"), fits])
    put_in_studies(connection, known, ["query", "near", "other modality", "not listed"])
    full = {
        "dataset": "one", "modality": "XR", "anatomic_region": "chest", "label": "a", "split": "train",
        "study_from": "2019-01-01", "study_to": "2021-01-01", "image_ids": known[:3],
    }  # fmt: skip
    assert uids(similar(connection, "query", **full)) == ["near"]


@pytest.mark.parametrize("with_index", [False, True])
def test_studies_of_the_query_patient_are_left_out_of_the_answers(
    connection: psycopg.Connection, with_index: bool
) -> None:
    known = fill(connection, unit(8), [Picture(patient=p) for p in "ppppqqrr"])
    put_in_studies(connection, known, [f"s{n // 2}" for n in range(8)])
    # A study whose images do not say whose they are, but which itself does.
    connection.execute("UPDATE cbir.image SET patient_id = NULL WHERE image_id = %s", [known[2]])
    if with_index:
        index(connection)
    assert sorted(uids(similar(connection, "s0"))) == ["s2", "s3"]
    assert sorted(uids(similar(connection, "s0", same_patient=True))) == ["s1", "s2", "s3"]


def test_filters_let_only_matching_images_take_part(connection: psycopg.Connection) -> None:
    pictures = [Picture()] * 2 + [Picture(modality="CT"), Picture(), Picture(), Picture(split="val")]
    known = fill(connection, unit(6), pictures)
    put_in_studies(connection, known, ["query", "query", "a", "a", "b", "b"])
    for filters, wanted in (
        ({"modality": "CT"}, {("a", known[2], 1)}),
        ({"split": "val"}, {("b", known[5], 1)}),
        ({"image_ids": [known[0], known[3], known[4]]}, {("a", known[3], 1), ("b", known[4], 1)}),
        ({"image_ids": []}, set()),
        ({"study_from": "2020-01-02"}, set()),
        ({"modality": "CT", "split": "val"}, set()),
    ):
        found = similar(connection, "query", **filters)
        assert {(row["study_uid"], row["image_id"], row["images"]) for row in found} == wanted, filters


@pytest.mark.parametrize("m", [1, 2, 5])
@pytest.mark.parametrize("k", [1, 3, 20])
def test_approximate_study_search_equals_the_exact_one(connection: psycopg.Connection, k: int, m: int) -> None:
    known = fill(connection, unit(600), precision="half")
    put_in_studies(connection, known, [f"{n % 150:03}" if n % 7 else None for n in range(600)])
    name = index(connection)
    before = scans(connection, name)
    for query in ("001", "077", "149"):
        found = similar(connection, query, k=k, m=m, mode="approximate")
        assert found == [row | {"mode": "approximate"} for row in similar(connection, query, k=k, m=m, mode="exact")]
        assert len(found) == k
    assert scans(connection, name) > before


def test_other_studies_are_found_beside_one_with_all_the_nearest_images(connection: psycopg.Connection) -> None:
    """The first lists, of 100 images, hold a single study."""
    crowd = unit(1) + unit(250, seed=1) * 1e-3
    vectors = np.concatenate([unit(1), crowd, unit(300, seed=2)])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    known = fill(connection, vectors)
    put_in_studies(connection, known, ["query", *["crowd"] * 250, *[f"other {n % 60:02}" for n in range(300)]])
    index(connection)
    found = similar(connection, "query", k=5, mode="approximate")
    assert uids(found) == uids(similar(connection, "query", k=5, mode="exact"))
    assert uids(found)[0] == "crowd"
    assert len(set(uids(found))) == 5
    everything = similar(connection, "query", k=1000, mode="approximate")
    assert len(everything) == 61
    assert all(row["complete"] for row in everything)


def test_reported_mode_is_how_the_server_searched(connection: psycopg.Connection) -> None:
    known = fill(connection, unit(300), [Picture(modality="MR" if n % 30 == 0 else "XR") for n in range(300)])
    put_in_studies(connection, known, [f"{n % 50:02}" for n in range(300)])
    index(connection)
    name = index_name(connection)
    for arguments, used in (({}, True), ({"mode": "exact"}, False), ({"modality": "MR"}, False)):
        before = scans(connection, name)
        found = similar(connection, "07", k=2, **arguments)
        assert {row["mode"] for row in found} == {"approximate" if used else "exact"}, arguments
        # The question whether the index would be walked asks for one image.
        assert (scans(connection, name) > before) is used, arguments


def test_bad_input_is_refused_with_a_hint(connection: psycopg.Connection) -> None:
    known = fill(connection, unit(6), [Picture(), Picture("two"), *[Picture()] * 4])
    put_in_studies(connection, known, ["query", None, "a", "bare", None, None])
    connection.execute(
        "INSERT INTO cbir.study (dataset_id, study_uid) SELECT dataset_id, 'a' FROM cbir.dataset WHERE name = 'two'"
    )
    connection.execute("DELETE FROM cbir.embedding_toy WHERE image_id = %s", [known[3]])
    errors = psycopg.errors
    for arguments, kind, message, hint in (
        ({"study_uid": "nowhere"}, errors.NoDataFound, "no such study", "There are 4 studies"),
        ({"study_uid": None}, errors.InvalidParameterValue, "not none", "study_uid => '1.2.3'"),
        ({"study_id": 1}, errors.InvalidParameterValue, "not both", "study_uid => '1.2.3'"),
        ({"study_uid": "a"}, errors.CardinalityViolation, "2 studies have this", "(dataset two)"),
        ({"study_uid": "bare"}, errors.NoDataFound, "no image of this study", "cbirdb encode -e toy"),
        ({"k": 0}, errors.InvalidParameterValue, "k must lie between 1 and 10000, not 0", ""),
        ({"m": 0}, errors.InvalidParameterValue, "m must lie between 1 and 10000, not 0", ""),
        ({"m": None}, errors.InvalidParameterValue, "not NULL", ""),
        ({"mode": "fast"}, errors.InvalidParameterValue, "no search mode", "exact"),
        ({"modality": "XX"}, errors.UndefinedObject, 'no modality "XX"', "XR"),
        ({"mode": "approximate"}, errors.UndefinedObject, "no vector index", "index build"),
    ):
        given = {"study_uid": "query"} | arguments
        with pytest.raises(kind, match=message) as caught:
            similar(connection, given.pop("study_uid"), **given)  # type: ignore[arg-type]
        assert hint in (caught.value.diag.message_hint or ""), message
        assert "nowhere" not in str(caught.value)
    row = connection.execute("SELECT max(study_id) FROM cbir.study WHERE study_uid = 'a'").fetchone()
    with pytest.raises(psycopg.errors.NoDataFound, match="no image of this study"):
        connection.execute("SELECT * FROM cbir.similar_studies('toy', study_id => %s)", row)
