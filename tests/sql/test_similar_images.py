"""Compare cbir.similar_images with a NumPy oracle, also under filters, and test bad input."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pgvector import Vector

from cbirdb.db.embeddings import table_name
from tests.support.stored_pictures import (
    DIM,
    FILTERS,
    PICTURES,
    Picture,
    exact_vectors,
    fill,
    ids,
    index,
    put_in_studies,
    search,
    unit,
)  # fmt: skip

COLUMNS = [
    "rank", "image_id", "distance", "similarity", "labels", "dataset", "modality", "anatomic_region", "study_uid",
    "study_date", "sop_uid", "source", "mode", "complete",
]  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(vectors=exact_vectors(), k=st.integers(1, 20), precision=st.sampled_from(["single", "half"]), data=st.data())
def test_exact_search_equals_numpy_and_breaks_ties_by_image_id(
    connection: psycopg.Connection, vectors: NDArray[np.float32], k: int, precision: str, data: st.DataObject
) -> None:
    with connection.transaction(force_rollback=True):
        known = fill(connection, vectors, precision=precision)
        query = data.draw(st.integers(0, len(vectors) - 1))
        distances = 1 - vectors.astype(float) @ vectors[query].astype(float)
        by_distance = sorted(range(len(vectors)), key=lambda n: (distances[n], known[n]))
        wanted = [n for n in by_distance if n != query][:k]

        found = search(connection, known[query], k=k, mode="exact")
        assert ids(found) == [known[n] for n in wanted]
        assert [row["distance"] for row in found] == [distances[n] for n in wanted]
        assert [row["rank"] for row in found] == list(range(1, len(wanted) + 1))
        assert ids(search(connection, vectors[query], k=k, mode="exact")) == [known[n] for n in by_distance[:k]]


def test_distances_of_arbitrary_vectors_equal_numpy(connection: psycopg.Connection) -> None:
    vectors = unit(60)
    known = fill(connection, vectors)
    found = search(connection, known[7], k=59, mode="exact")
    wide = vectors.astype(float)
    distances = dict(zip(known, 1 - wide @ wide[7], strict=True))
    assert [row["distance"] for row in found] == pytest.approx([distances[i] for i in ids(found)], abs=1e-6)
    assert ids(found) == sorted(set(known) - {known[7]}, key=distances.__getitem__)
    assert all(row["similarity"] == 1 - row["distance"] for row in found)
    assert list(found[0]) == COLUMNS


@pytest.mark.parametrize("precision", ["single", "half"])
@pytest.mark.parametrize("scale", [1e-30, 1e-9, 3.0, 1e6, 1e30])
def test_length_of_the_query_vector_does_not_change_the_answer(
    connection: psycopg.Connection, precision: str, scale: float
) -> None:
    vectors = unit(20)
    known = fill(connection, vectors, precision=precision)
    query = vectors[3].astype(float) * scale
    found = search(connection, query, k=20, mode="exact")
    assert ids(found)[0] == known[3]
    assert [row["distance"] for row in found] == pytest.approx(
        sorted(1 - vectors.astype(float) @ vectors[3].astype(float)), abs=2e-3
    )


def test_result_rows_describe_what_is_stored(connection: psycopg.Connection) -> None:
    pictures = [Picture(), Picture("two", ("b", "a"), "test", "CT", "abd", None, "2020-02-03"), Picture(modality=None)]
    known = fill(connection, unit(3), pictures)
    found = {row["image_id"]: row for row in search(connection, known[0])}
    row = found[known[1]]
    assert (row["dataset"], row["labels"], row["modality"], row["anatomic_region"]) == ("two", ["a", "b"], "CT", "abd")
    assert (row["study_uid"], str(row["study_date"]), row["sop_uid"], row["source"]) == (
        "study 1", "2020-02-03", "1.2.1", "1",
    )  # fmt: skip
    assert found[known[2]]["labels"] == []
    assert all(row["complete"] and row["mode"] == "exact" for row in found.values())


@pytest.mark.parametrize("with_index", [False, True])
def test_query_image_and_its_patient_are_left_out_of_the_answers(
    connection: psycopg.Connection, with_index: bool
) -> None:
    pictures = [Picture(patient="p")] * 4 + [Picture(patient="q")] * 3 + [Picture()] * 3 + [Picture("two", patient="p")]
    known = fill(connection, unit(11), pictures)
    if with_index:
        index(connection)
    others = set(known) - set(known[:4])
    assert set(ids(search(connection, known[0], k=50))) == others  # dataset two's "p" is another person
    assert set(ids(search(connection, known[0], k=50, same_patient=True))) == set(known) - {known[0]}
    assert set(ids(search(connection, known[7], k=50))) == set(known) - {known[7]}
    assert {row["mode"] for row in search(connection, known[0], k=50)} == {"approximate" if with_index else "exact"}


@pytest.mark.parametrize("mode", ["exact", "approximate", "auto"])
def test_filters_return_exactly_the_matching_images(connection: psycopg.Connection, mode: str) -> None:
    known = fill(connection, unit(len(PICTURES)), PICTURES)
    if mode != "exact":
        index(connection)
    for filters, wanted in FILTERS:
        found = search(connection, unit(1, seed=9)[0], k=50, mode=mode, **filters)
        assert sorted(ids(found)) == [known[n] for n in wanted], filters
        assert [row["distance"] for row in found] == sorted(row["distance"] for row in found)


@pytest.mark.parametrize("function", ["similar_images", "label_suggestions", "similar_studies"])
@pytest.mark.parametrize(("same_patient", "own"), [(None, False), (False, False), (True, True)])
def test_patient_is_left_out_unless_same_patient_is_true(
    connection: psycopg.Connection, function: str, same_patient: bool | None, own: bool
) -> None:
    """NULL, which clients send for an empty parameter, does not mean TRUE."""
    pictures = [Picture(patient="p"), Picture(patient="p", labels=("own",)), Picture(patient="q", labels=("other",))]
    known = fill(connection, unit(3), pictures)
    put_in_studies(connection, known, ["query", "own", "other"])
    start, what = {
        "similar_images": ("image_id => %(image)s", "labels[1]"),
        "label_suggestions": ("image_id => %(image)s", "label"),
        "similar_studies": ("study_uid => 'query'", "study_uid"),
    }[function]
    found = connection.execute(
        f"SELECT {what} FROM cbir.{function}('toy', {start}, same_patient => %(same)s::boolean)",
        {"image": known[0], "same": same_patient},
    ).fetchall()
    assert {row[0] for row in found} == ({"own", "other"} if own else {"other"})


Call = Callable[[psycopg.Connection, list[int]], object]


@pytest.mark.parametrize(
    ("call", "kind", "message", "hint"),
    [
        (lambda c, i: search(c, i[0], "toi"), psycopg.errors.UndefinedObject, 'no encoder "toi"', "toy"),
        (lambda c, i: search(c, i[0], None), psycopg.errors.UndefinedObject, "no encoder", "toy"),
        (lambda c, _: search(c, unit(1)[0], "toi"), psycopg.errors.UndefinedObject, 'no encoder "toi"', "toy"),
        (lambda c, _: search(c, 0), psycopg.errors.NoDataFound, "no image 0", "image_overview"),
        (lambda c, _: search(c, None), psycopg.errors.InvalidParameterValue, "give exactly one of image_id", "image_id => 42"),
        (lambda c, i: search(c, i[3]), psycopg.errors.NoDataFound, "no embedding", "cbirdb encode -e toy"),
        *(
            (lambda c, i, k=k: search(c, i[0], k=k), psycopg.errors.InvalidParameterValue, "k must lie between", None)
            for k in (0, -1, 10_001, None)
        ),
        *(
            (lambda c, i, m=m: search(c, i[0], mode=m), psycopg.errors.InvalidParameterValue, "search mode", "exact")
            for m in ("fast", "", None)
        ),
        (lambda c, _: search(c, "[1,2]"), psycopg.errors.InvalidParameterValue, "must have 8 dimensions", None),
        (lambda c, _: search(c, np.zeros(DIM)), psycopg.errors.InvalidParameterValue, "must not consist of zeros", None),
        (lambda c, i: search(c, i[0], mode="approximate"), psycopg.errors.UndefinedObject, "no vector index", "index build"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_a_hint(
    connection: psycopg.Connection, call: Call, kind: type[psycopg.Error], message: str, hint: str | None
) -> None:
    known = fill(connection, unit(4))
    connection.execute("DELETE FROM cbir.embedding_toy WHERE image_id = %s", [known[3]])
    with pytest.raises(kind, match=message) as caught:
        call(connection, known)
    assert hint is None or hint in (caught.value.diag.message_hint or "")


@pytest.mark.parametrize(
    ("call", "message", "hint"),
    [
        ("'toy', '[1,2]', 10", "must have 8 dimensions, not 2", "No encoder here has this number of dimensions."),
        ("'toy', NULL, 10", "the query vector is NULL", "image_id => 42"),
        ("'toy', '[0,0,0,0,0,0,0,0]', 10", "must not consist of zeros", "compares directions"),
        ("'toy', '[1,2,3,4,5,6,7,8]', 0", "k must lie between 1 and 10000, not 0", "Omit k"),
        ("'toy', '[1,2,3,4,5,6,7,8]', NULL", "k must lie between 1 and 10000, not NULL", "Omit k"),
        ("'toy', '[1,2,3,4,5,6,7,8]', 10, mode => 'fast'", 'no search mode "fast"', "auto, exact, approximate"),
    ],
)  # fmt: skip
def test_nearest_image_refuses_bad_input_with_a_hint(
    connection: psycopg.Connection, call: str, message: str, hint: str
) -> None:
    fill(connection, unit(4))
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=message) as caught:
        connection.execute(f"SELECT * FROM cbir_internal.nearest_image({call})")  # type: ignore[call-overload]
    assert hint in (caught.value.diag.message_hint or "")


def test_null_vector_is_refused(connection: psycopg.Connection) -> None:
    fill(connection, unit(4))
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=r"give exactly one of .* not none"):
        connection.execute("SELECT * FROM cbir.similar_images('toy', query => NULL::vector)")


def test_encoder_without_embeddings_finds_nothing(connection: psycopg.Connection) -> None:
    fill(connection, unit(1))
    connection.execute("DELETE FROM cbir.embedding_toy")
    assert search(connection, unit(1)[0]) == []


@pytest.mark.parametrize(
    "name", ['o\'brien "x"; --', "Tiny", "a_b", "", "-.-", "x" * 41, "a@b", "a@1234567", "a@12345678@12345678", None]
)
def test_encoder_name_that_cannot_name_a_table_is_refused(connection: psycopg.Connection, name: str | None) -> None:
    with pytest.raises(psycopg.errors.InvalidName, match="is not a valid encoder name") as caught:
        connection.execute("SELECT cbir_internal.register_encoder(%s, 4, 'half', NULL, NULL, NULL, '{}', '{}')", [name])
    assert "1 to 40 of the characters" in str(caught.value.diag.message_hint)


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("a.b-c", "embedding_a_b_c"),
        ("x@0123abcd", "embedding_x_0123abcd"),
        ("-x-", "embedding_x"),
        ("x" * 40 + "@01234567", "embedding_" + "x" * 40 + "_01234567"),
    ],
)
def test_encoder_table_is_named_after_the_encoder(connection: psycopg.Connection, name: str, table: str) -> None:
    connection.execute("SELECT cbir_internal.register_encoder(%s, 4, 'half', NULL, NULL, NULL, '{}', '{}')", [name])
    assert connection.execute("SELECT table_name FROM cbir.encoder").fetchone() == (table,)
    assert table_name(name) == table
    assert connection.execute(f"SELECT count(*) FROM cbir.{table}".encode()).fetchone() == (0,)


def matching(connection: psycopg.Connection, filter_: str, *values: object) -> list[int]:
    rows = connection.execute(
        f"SELECT image_id FROM cbir_internal.matching_image({filter_}) ORDER BY 1", values
    ).fetchall()
    return [row[0] for row in rows]


def test_list_of_images_restricts_a_search(connection: psycopg.Connection) -> None:
    known = fill(connection, unit(len(PICTURES)), PICTURES)
    listed = "ROW(NULL, %s, NULL, NULL, NULL, NULL, NULL, %s, NULL, NULL, NULL, NULL, NULL)::cbir.image_filter"
    assert matching(connection, "NULL") == known
    assert matching(connection, listed, None, None) == known
    assert matching(connection, listed, None, []) == []
    assert matching(connection, listed, None, [known[5], known[1], known[5], 10**12]) == [known[1], known[5]]
    assert matching(connection, listed, "XR", [known[3], known[1]]) == [known[1]]
    rows = connection.execute(
        f"SELECT image_id FROM cbir_internal.nearest_image('toy', %s::vector, filter => {listed})",
        [Vector(unit(1)[0]).to_text(), None, [known[2], known[4]]],
    ).fetchall()
    assert sorted(row[0] for row in rows) == [known[2], known[4]]


def test_plan_of_a_filter_tests_only_the_given_fields(connection: psycopg.Connection) -> None:
    def plan(filter_: str) -> str:
        rows = connection.execute(
            f"EXPLAIN SELECT image_id FROM cbir_internal.matching_image({filter_}) AS m"
        ).fetchall()
        return "\n".join(row[0] for row in rows)

    assert "Function Scan" not in plan("NULL")
    assert "Filter" not in plan("NULL")
    modality = plan(
        "ROW(NULL, 'CT', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::cbir.image_filter"
    )
    assert "modality = 'CT'::text" in modality
    assert "dataset" not in modality
    assert "SubPlan" not in modality
    assert "Function Scan" not in plan(
        "ROW('a', NULL, NULL, 'XR', NULL, '2020-01-01', NULL, '{1}', NULL, NULL, NULL, NULL, NULL)::cbir.image_filter"
    )


@pytest.mark.parametrize("with_index", [False, True])
def test_without_study_leaves_out_the_images_of_that_study(connection: psycopg.Connection, with_index: bool) -> None:
    known = fill(connection, unit(12), [Picture(study_date="2020-01-01") if n < 9 else Picture() for n in range(12)])
    connection.execute(
        "UPDATE cbir.image SET study_id = (SELECT min(study_id) FROM cbir.study) WHERE image_id = ANY(%s)", [known[:4]]
    )
    if with_index:
        index(connection)
    found = connection.execute(
        "SELECT image_id FROM cbir_internal.nearest_image('toy', %s::vector, 50,"
        " without_study => (SELECT study_id FROM cbir.image WHERE image_id = %s))",
        [Vector(unit(1)[0]).to_text(), known[0]],
    ).fetchall()
    assert {row[0] for row in found} == set(known[4:])
