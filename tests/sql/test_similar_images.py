"""cbir.similar_images against a NumPy oracle, exactly and through a real HNSW index, and against bad input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pgvector import Vector
from psycopg import sql
from psycopg.rows import dict_row

from cbirdb.db.embeddings import find_encoder
from cbirdb.db.vector_index import Hnsw
from cbirdb.index import build_index

DIM = 8
COLUMNS = [
    "rank", "image_id", "distance", "similarity", "labels", "dataset", "modality", "anatomic_region", "study_uid",
    "study_date", "sop_uid", "source", "mode", "complete",
]  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """What is stored about one image of a test."""

    dataset: str = "one"
    labels: tuple[str, ...] = ()
    split: str | None = "train"
    modality: str | None = "XR"
    region: str | None = "chest"
    patient: str | None = None
    study_date: str | None = None


def fill(
    connection: psycopg.Connection,
    vectors: NDArray[np.floating],
    pictures: Sequence[Picture] | None = None,
    *,
    encoder: str = "toy",
    table: str = "embedding_toy",
    precision: str = "single",
) -> list[int]:
    """Store images and their unit vectors, by plain SQL; returns the images' ids."""
    pictures = pictures or [Picture()] * len(vectors)
    rows = [
        (n, p.dataset, p.split, p.modality, p.region, p.patient, p.study_date, list(p.labels), Vector(v).to_text())
        for n, (p, v) in enumerate(zip(pictures, vectors, strict=True))
    ]
    connection.execute(
        "CREATE TEMPORARY TABLE given (n int, dataset text, split text, modality text, region text, patient text,"
        " study_date date, labels text[], embedding vector)"
    )
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO given VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)", rows)
    connection.execute(
        """
        INSERT INTO cbir.dataset (name, reader) SELECT DISTINCT dataset, 'test' FROM given;
        INSERT INTO cbir.patient (dataset_id, pseudonym)
        SELECT DISTINCT dataset_id, patient FROM given JOIN cbir.dataset ON name = dataset WHERE patient IS NOT NULL;
        INSERT INTO cbir.study (dataset_id, study_uid, study_date)
        SELECT dataset_id, 'study ' || n, study_date FROM given JOIN cbir.dataset ON name = dataset
        WHERE study_date IS NOT NULL;
        INSERT INTO cbir.image (dataset_id, source, split, modality, anatomic_region, patient_id, study_id, sop_uid)
        SELECT d.dataset_id, n::text, split, modality, region, p.patient_id, s.study_id, '1.2.' || n
        FROM given JOIN cbir.dataset AS d ON d.name = given.dataset
        LEFT JOIN cbir.patient AS p ON p.dataset_id = d.dataset_id AND p.pseudonym = patient
        LEFT JOIN cbir.study AS s ON s.study_uid = 'study ' || n ORDER BY n;
        INSERT INTO cbir.label (name) SELECT DISTINCT unnest(labels) FROM given;
        INSERT INTO cbir.image_label (image_id, label_id)
        SELECT image_id, label_id FROM given JOIN cbir.image ON source = n::text JOIN cbir.label ON name = ANY(labels);
        """
    )
    connection.execute(
        "INSERT INTO cbir.encoder (name, table_name, dim, precision) VALUES (%s, %s, %s, %s)",
        [encoder, table, vectors.shape[1], precision],
    )
    connection.execute("SELECT cbir.create_embedding_table(%s)", [encoder])
    connection.execute(
        sql.SQL("INSERT INTO cbir.{} SELECT image_id, embedding FROM given JOIN cbir.image ON source = n::text").format(
            sql.Identifier(table)
        )
    )
    connection.execute("DROP TABLE given")
    return [row[0] for row in connection.execute("SELECT image_id FROM cbir.image ORDER BY source::int")]


def unit(number: int, *, seed: int = 0, dim: int = DIM) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(number, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def search(
    connection: psycopg.Connection, query: object, encoder: str = "toy", **arguments: object
) -> list[dict[str, Any]]:
    """``query``: an image's id, or a vector."""
    start = "image_id => %(query)s::bigint" if isinstance(query, int) or query is None else "query => %(query)s::vector"
    given = "".join(f", {name} => %({name})s" for name in arguments)
    values = {"query": query if isinstance(query, int | str | None) else Vector(query).to_text(), "encoder": encoder}
    cursor = connection.cursor(row_factory=dict_row)
    return cursor.execute(
        f"SELECT * FROM cbir.similar_images(%(encoder)s, {start}{given})", values | arguments
    ).fetchall()


def ids(rows: Sequence[dict[str, Any]]) -> list[int]:
    return [row["image_id"] for row in rows]


def index(connection: psycopg.Connection, encoder: str = "toy", method: Hnsw | None = None) -> str:
    """Build the HNSW index; returns its name."""
    stored = find_encoder(connection, encoder)
    assert stored is not None
    built = build_index(
        connection, stored, method or Hnsw(), connect=lambda: psycopg.connect(connection.info.dsn, autocommit=True)
    )
    return built.index_name


def scans(connection: psycopg.Connection, index_name: str) -> int:
    """How often the index was scanned, by the server's own count."""
    connection.execute("SELECT pg_stat_force_next_flush()")
    row = connection.execute(
        "SELECT idx_scan FROM pg_stat_user_indexes WHERE schemaname = 'cbir' AND indexrelname = %s", [index_name]
    ).fetchone()
    assert row is not None
    return int(row[0])


@st.composite
def exact_vectors(draw: st.DrawFn) -> NDArray[np.float32]:
    """Unit vectors whose dot products binary floats hold exactly (four components of a half), so that ties are ties."""
    rows = []
    for _ in range(draw(st.integers(1, 14))):
        where = draw(st.permutations(range(DIM)))[:4]
        row = np.zeros(DIM, np.float32)
        row[where] = draw(st.lists(st.sampled_from([-0.5, 0.5]), min_size=4, max_size=4))
        rows.append(row)
    return np.stack(rows)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(vectors=exact_vectors(), k=st.integers(1, 20), precision=st.sampled_from(["single", "half"]), data=st.data())
def test_exact_search_disagrees_with_numpy_or_breaks_ties_by_something_else_than_image_id(
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


def test_distances_of_arbitrary_vectors_differ_from_numpy(connection: psycopg.Connection) -> None:
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
def test_the_length_of_the_query_vector_changes_the_answer(
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


def test_described_rows_are_not_what_is_stored(connection: psycopg.Connection) -> None:
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
def test_the_query_or_its_patient_is_among_the_answers(connection: psycopg.Connection, with_index: bool) -> None:
    pictures = [Picture(patient="p")] * 4 + [Picture(patient="q")] * 3 + [Picture()] * 3 + [Picture("two", patient="p")]
    known = fill(connection, unit(11), pictures)
    if with_index:
        index(connection)
    others = set(known) - set(known[:4])
    assert set(ids(search(connection, known[0], k=50))) == others  # dataset two's "p" is another person
    assert set(ids(search(connection, known[0], k=50, same_patient=True))) == set(known) - {known[0]}
    assert set(ids(search(connection, known[7], k=50))) == set(known) - {known[7]}
    assert {row["mode"] for row in search(connection, known[0], k=50)} == {"approximate" if with_index else "exact"}


PICTURES = [
    Picture("one", ("XR/chest/a",), "train", "XR", "chest", study_date="2020-01-01"),
    Picture("one", ("XR/chest",), "test", "XR", "chest", study_date="2020-06-01"),
    Picture("one", ("XR/chestwall",), "train", "XR", "wall", study_date="2021-01-01"),
    Picture("two", ("CT/abd/a", "XR/chest/b"), "train", "CT", "abd", study_date="2021-06-01"),
    Picture("two", ("CT/abd",), "val", "CT", "abd"),
    Picture("two", (), None, None, None),
    Picture("two", ("100%/x_y",), "train", "MR", "knee", study_date="2020-01-01"),
]


FILTERS: list[tuple[dict[str, str], list[int]]] = [
    ({}, [0, 1, 2, 3, 4, 5, 6]),
    ({"dataset": "one"}, [0, 1, 2]),
    ({"modality": "CT"}, [3, 4]),
    ({"anatomic_region": "chest"}, [0, 1]),
    ({"label": "XR/chest"}, [0, 1, 3]),
    ({"label": "XR/chest/a"}, [0]),
    ({"label": "XR"}, [0, 1, 2, 3]),
    ({"label": "100%"}, [6]),
    ({"split": "train"}, [0, 2, 3, 6]),
    ({"study_from": "2020-06-01"}, [1, 2, 3]),
    ({"study_to": "2020-06-01"}, [0, 1, 6]),
    ({"study_from": "2020-06-01", "study_to": "2021-01-01"}, [1, 2]),
    ({"study_from": "2022-01-01"}, []),
    ({"dataset": "two", "label": "XR/chest"}, [3]),
    ({"dataset": "one", "split": "train", "modality": "XR", "anatomic_region": "chest"}, [0]),
    ({"label": "XR", "split": "train", "study_from": "2020-12-31", "dataset": "one"}, [2]),
    ({"modality": "CT", "anatomic_region": "chest"}, []),
    ({"split": "val", "modality": "XR"}, []),
]


@pytest.mark.parametrize("mode", ["exact", "approximate", "auto"])
def test_a_filter_lets_the_wrong_images_pass(connection: psycopg.Connection, mode: str) -> None:
    known = fill(connection, unit(len(PICTURES)), PICTURES)
    if mode != "exact":
        index(connection)
    for filters, wanted in FILTERS:
        found = search(connection, unit(1, seed=9)[0], k=50, mode=mode, **filters)
        assert sorted(ids(found)) == [known[n] for n in wanted], filters
        assert [row["distance"] for row in found] == sorted(row["distance"] for row in found)


@pytest.fixture
def many(connection: psycopg.Connection) -> list[int]:
    """300 images, ten of them of the rare modality MR, with an HNSW index."""
    known = fill(connection, unit(300), [Picture(modality="MR" if n % 30 == 0 else "XR") for n in range(300)])
    index(connection)
    return known


def index_name(connection: psycopg.Connection) -> str:
    row = connection.execute("SELECT index_name FROM cbir.index_build WHERE dropped_at IS NULL").fetchone()
    assert row is not None
    return str(row[0])


def test_a_hundred_neighbours_stop_at_pgvectors_default_of_forty(
    connection: psycopg.Connection, many: list[int]
) -> None:
    found = search(connection, many[0], k=100, mode="approximate")
    assert len(found) == 100
    assert {row["mode"] for row in found} == {"approximate"}
    exact = search(connection, many[0], k=100, mode="exact")
    assert len(set(ids(found)) & set(ids(exact))) >= 95


def test_k_above_ef_search_and_above_what_exists_comes_back_short(
    connection: psycopg.Connection, many: list[int]
) -> None:
    for mode in ("approximate", "exact", "auto"):
        found = search(connection, many[0], k=10_000, mode=mode)
        assert set(ids(found)) == set(many) - {many[0]}
        assert all(row["complete"] for row in found)


@pytest.mark.parametrize(
    ("mode", "filters", "used"),
    [
        ("approximate", {}, True),
        ("auto", {}, True),
        ("approximate", {"modality": "XR"}, True),
        ("exact", {}, False),
        ("exact", {"modality": "XR"}, False),
        ("auto", {"modality": "MR"}, False),
    ],
)
def test_the_mode_that_is_reported_is_not_how_the_server_searched(
    connection: psycopg.Connection, many: list[int], mode: str, filters: dict[str, str], used: bool
) -> None:
    name = index_name(connection)
    before = scans(connection, name)
    found = search(connection, many[0], k=5, mode=mode, **filters)
    assert (scans(connection, name) > before) is used
    assert {row["mode"] for row in found} == {"approximate" if used else "exact"}


def test_an_exact_search_uses_the_index_when_the_planner_is_pushed_to_it(
    connection: psycopg.Connection, many: list[int]
) -> None:
    name = index_name(connection)
    connection.execute("SET enable_seqscan = off")
    connection.execute("SET enable_sort = off")
    before = scans(connection, name)
    search(connection, many[0], k=5, mode="exact")
    assert scans(connection, name) == before


@pytest.mark.parametrize("limits", [{}, {"hnsw.max_scan_tuples": "1"}])
def test_a_selective_filter_loses_rows_of_an_approximate_search(
    connection: psycopg.Connection, many: list[int], limits: dict[str, str]
) -> None:
    for name, value in limits.items():
        connection.execute("SELECT set_config(%s, %s, false)", [name, value])
    query = unit(1, seed=5)[0]
    found = search(connection, query, k=50, mode="approximate", modality="MR")
    assert ids(found) == ids(search(connection, query, k=50, mode="exact", modality="MR"))
    assert len(found) == 10


def test_an_index_walk_that_ends_early_is_passed_off_as_complete(
    connection: psycopg.Connection, many: list[int]
) -> None:
    connection.execute("SET hnsw.max_scan_tuples = 1")
    found = search(connection, unit(1, seed=5)[0], k=200, mode="approximate", modality="XR")
    assert len(found) == 200
    if {row["mode"] for row in found} == {"exact"}:
        assert ids(found) == ids(search(connection, unit(1, seed=5)[0], k=200, mode="exact", modality="XR"))


def test_deleted_images_eat_up_the_candidates_of_an_approximate_search(
    connection: psycopg.Connection, many: list[int]
) -> None:
    query = unit(1, seed=6)[0]
    nearest = ids(search(connection, query, k=150, mode="exact"))
    connection.execute("DELETE FROM cbir.image WHERE image_id = ANY(%s)", [nearest])
    found = search(connection, query, k=100, mode="approximate")
    assert len(found) == 100
    assert not set(ids(found)) & set(nearest)
    assert len(search(connection, query, k=200, mode="approximate")) == 150


def test_a_search_leaves_its_settings_behind(connection: psycopg.Connection, many: list[int]) -> None:
    names = ("hnsw.ef_search", "hnsw.iterative_scan", "enable_seqscan", "search_path")

    def now() -> list[str]:
        return [
            connection.execute(sql.SQL("SHOW {}").format(sql.Identifier(*n.split(".")))).fetchone()[0] for n in names
        ]  # type: ignore[index]

    connection.execute("SET hnsw.ef_search = 77")
    connection.execute("SET enable_seqscan = on")
    session = now()
    with connection.transaction():
        connection.execute("SET LOCAL hnsw.iterative_scan = 'relaxed_order'")
        inside = now()
        assert search(connection, many[0], k=100, mode="approximate")
        assert now() == inside
        with pytest.raises(psycopg.errors.InvalidParameterValue), connection.transaction():
            search(connection, "[1,2]", mode="approximate")
        assert now() == inside
    assert now() == session


def test_a_first_search_on_a_connection_fails_because_pgvector_is_not_loaded(dsn: str, many: list[int]) -> None:
    with psycopg.connect(dsn, autocommit=True) as fresh:
        assert len(search(fresh, many[0], k=7, mode="approximate")) == 7


def test_an_index_that_someone_dropped_by_hand_breaks_search(connection: psycopg.Connection, many: list[int]) -> None:
    connection.execute(sql.SQL("DROP INDEX cbir.{}").format(sql.Identifier(index_name(connection))))
    assert {row["mode"] for row in search(connection, many[0])} == {"exact"}
    with pytest.raises(psycopg.errors.UndefinedObject, match="no vector index"):
        search(connection, many[0], mode="approximate")


Call = Callable[[psycopg.Connection, list[int]], object]


@pytest.mark.parametrize(
    ("call", "kind", "message", "hint"),
    [
        (lambda c, i: search(c, i[0], "toi"), psycopg.errors.UndefinedObject, 'no encoder "toi"', "toy"),
        (lambda c, i: search(c, i[0], None), psycopg.errors.UndefinedObject, "no encoder", "toy"),
        (lambda c, _: search(c, unit(1)[0], "toi"), psycopg.errors.UndefinedObject, 'no encoder "toi"', "toy"),
        (lambda c, _: search(c, 0), psycopg.errors.NoDataFound, "no image 0", "image_overview"),
        (lambda c, _: search(c, None), psycopg.errors.InvalidParameterValue, "give one of image_id", "image_id => 42"),
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
        (lambda c, _: search(c, np.zeros(DIM)), psycopg.errors.InvalidParameterValue, "length above zero", None),
        (lambda c, i: search(c, i[0], mode="approximate"), psycopg.errors.UndefinedObject, "no vector index", "index build"),
    ],
)  # fmt: skip
def test_bad_input_is_not_refused_in_a_sentence(
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
        ("'toy', '[1,2]', 10", "must have 8 dimensions, not 2", "No encoder here has as many."),
        ("'toy', NULL, 10", "the query vector is NULL", "image_id => 42"),
        ("'toy', '[0,0,0,0,0,0,0,0]', 10", "length above zero", "no direction"),
        ("'toy', '[1,2,3,4,5,6,7,8]', 0", "k must lie between 1 and 10000, not 0", "Leave k out"),
        ("'toy', '[1,2,3,4,5,6,7,8]', NULL", "k must lie between 1 and 10000, not NULL", "Leave k out"),
        ("'toy', '[1,2,3,4,5,6,7,8]', 10, mode => 'fast'", 'no search mode "fast"', "auto, exact, approximate"),
    ],
)  # fmt: skip
def test_what_all_searches_stand_on_refuses_without_saying_what_to_do(
    connection: psycopg.Connection, call: str, message: str, hint: str
) -> None:
    fill(connection, unit(4))
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=message) as caught:
        connection.execute(f"SELECT * FROM cbir.nearest_image({call})")  # type: ignore[call-overload]
    assert hint in (caught.value.diag.message_hint or "")


def test_a_null_vector_is_searched_for(connection: psycopg.Connection) -> None:
    fill(connection, unit(4))
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=r"give one of .* not none"):
        connection.execute("SELECT * FROM cbir.similar_images('toy', query => NULL::vector)")


def test_an_encoder_without_embeddings_fails_instead_of_finding_nothing(connection: psycopg.Connection) -> None:
    fill(connection, unit(1))
    connection.execute("DELETE FROM cbir.embedding_toy")
    assert search(connection, unit(1)[0]) == []


def test_an_encoder_whose_name_needs_quotes_cannot_be_searched(connection: psycopg.Connection) -> None:
    name = 'o\'brien "x"; --'
    known = fill(connection, unit(5), encoder=name, table="embedding_o_brien_x")
    assert len(search(connection, known[0], name)) == 4


def test_a_table_that_is_no_embedding_table_is_made(connection: psycopg.Connection) -> None:
    with pytest.raises(psycopg.Error, match="names a table that is no embedding table"):
        fill(connection, unit(5), encoder="odd", table='embedding_O\'Brien "x"')


def matching(connection: psycopg.Connection, filter_: str, *values: object) -> list[int]:
    rows = connection.execute(f"SELECT image_id FROM cbir.matching_image({filter_}) ORDER BY 1", values).fetchall()
    return [row[0] for row in rows]


def test_a_list_of_images_does_not_restrict_a_search(connection: psycopg.Connection) -> None:
    known = fill(connection, unit(len(PICTURES)), PICTURES)
    listed = "ROW(NULL, %s, NULL, NULL, NULL, NULL, NULL, %s)::cbir.image_filter"
    assert matching(connection, "NULL") == known
    assert matching(connection, listed, None, None) == known
    assert matching(connection, listed, None, []) == []
    assert matching(connection, listed, None, [known[5], known[1], known[5], 10**12]) == [known[1], known[5]]
    assert matching(connection, listed, "XR", [known[3], known[1]]) == [known[1]]
    rows = connection.execute(
        f"SELECT image_id FROM cbir.nearest_image('toy', %s::vector, filter => {listed})",
        [Vector(unit(1)[0]).to_text(), None, [known[2], known[4]]],
    ).fetchall()
    assert sorted(row[0] for row in rows) == [known[2], known[4]]


def test_the_plan_of_a_filter_tests_fields_that_were_not_given(connection: psycopg.Connection) -> None:
    def plan(filter_: str) -> str:
        rows = connection.execute(f"EXPLAIN SELECT image_id FROM cbir.matching_image({filter_}) AS m").fetchall()
        return "\n".join(row[0] for row in rows)

    assert "Function Scan" not in plan("NULL")
    assert "Filter" not in plan("NULL")
    modality = plan("ROW(NULL, 'CT', NULL, NULL, NULL, NULL, NULL, NULL)::cbir.image_filter")
    assert "modality = 'CT'::text" in modality
    assert "dataset" not in modality
    assert "SubPlan" not in modality
    assert "Function Scan" not in plan("ROW('a', NULL, NULL, 'XR', NULL, '2020-01-01', NULL, '{1}')::cbir.image_filter")


@pytest.mark.parametrize("with_index", [False, True])
def test_the_querys_study_is_among_the_answers(connection: psycopg.Connection, with_index: bool) -> None:
    known = fill(connection, unit(12), [Picture(study_date="2020-01-01") if n < 9 else Picture() for n in range(12)])
    connection.execute(
        "UPDATE cbir.image SET study_id = (SELECT min(study_id) FROM cbir.study) WHERE image_id = ANY(%s)", [known[:4]]
    )
    if with_index:
        index(connection)
    found = connection.execute(
        "SELECT image_id FROM cbir.nearest_image('toy', %s::vector, 50,"
        " without_study => (SELECT study_id FROM cbir.image WHERE image_id = %s))",
        [Vector(unit(1)[0]).to_text(), known[0]],
    ).fetchall()
    assert {row[0] for row in found} == set(known[4:])
