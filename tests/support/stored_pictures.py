"""Images with vectors of their own, stored by plain SQL, and searches among them: what tests of searches begin with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from hypothesis import strategies as st
from numpy.typing import NDArray
from pgvector import Vector
from psycopg import sql
from psycopg.rows import dict_row

from cbirdb.db.embeddings import find_encoder
from cbirdb.index import build_index
from cbirdb.index.methods import Hnsw

DIM = 8


@dataclass(frozen=True)
class Picture:
    """The stored facts about one image of a test."""

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
    connection.execute("SELECT cbir_internal.create_embedding_table(%s)", [encoder])
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
    """Return the number of scans of the index, by the server's own count."""
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


def index_name(connection: psycopg.Connection) -> str:
    row = connection.execute("SELECT index_name FROM cbir.index_build WHERE dropped_at IS NULL").fetchone()
    assert row is not None
    return str(row[0])


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


def put_in_studies(connection: psycopg.Connection, known: Sequence[int], studies: Sequence[str | None]) -> None:
    """Image by image the UID of its study; None: no study. A study's patient is that of its images."""
    for uid in sorted({uid for uid in studies if uid is not None}):
        images = [image for image, own in zip(known, studies, strict=True) if own == uid]
        connection.execute(
            "WITH made AS (INSERT INTO cbir.study (dataset_id, patient_id, study_uid, study_date)"
            " SELECT dataset_id, patient_id, %(uid)s, '2020-01-01' FROM cbir.image WHERE image_id = %(first)s"
            " RETURNING study_id) UPDATE cbir.image SET study_id = made.study_id FROM made WHERE image_id = ANY(%(all)s)",
            {"uid": uid, "first": images[0], "all": images},
        )
