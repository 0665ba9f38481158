"""Two sites whose vectors lie between each other, in one database under row-level security."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg

from cbirdb.db.embeddings import find_encoder, register_encoder
from cbirdb.evaluate import EvaluationOptions, evaluate
from cbirdb.index import build_index
from cbirdb.index.methods import Hnsw
from tests.conftest import Logins
from tests.support.probes import stored_probe, sure_answers

IMAGES = 30
"""Of each site. Site a's have the ids 1 to 30, so that they are the same where site b is not there."""
HIDDEN, ABSENT = IMAGES + 7, 10**9


def vectors(site: int) -> np.ndarray:
    """Points of a circle: those of site b lie between those of site a."""
    angles = np.radians(np.arange(IMAGES) * 10 + 5 * site)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def fill(connection: psycopg.Connection, site: str) -> None:
    """Images, labels, patients, studies, vectors, a failure and a stored evaluation of one site."""
    register_encoder(connection, "toy", dim=2, precision="single", spec={}, provenance={})
    with connection.transaction():
        connection.execute("INSERT INTO cbir.dataset (name, reader) VALUES (%s, 'test')", [site])
        connection.execute(
            "INSERT INTO cbir.label (name) VALUES ('XR/shared'), (%s) ON CONFLICT DO NOTHING", [f"XR/{site}"]
        )
        connection.execute(
            """
            INSERT INTO cbir.patient (dataset_id, pseudonym)
            SELECT dataset_id, name || n FROM cbir.dataset, generate_series(1, %(images)s / 2) AS n WHERE name = %(site)s;
            """,
            {"site": site, "images": IMAGES},
        )
        for statement in (
            (
                "INSERT INTO cbir.study (dataset_id, patient_id, study_uid, study_date)"
                " SELECT dataset_id, patient_id, 'study ' || pseudonym, '2026-01-01' FROM cbir.patient"
                " WHERE pseudonym LIKE %(site)s || '%%' ORDER BY patient_id"
            ),
            (
                "INSERT INTO cbir.series (study_id, series_uid) SELECT study_id, 'series ' || study_uid FROM cbir.study"
                " WHERE study_uid LIKE 'study ' || %(site)s || '%%' ORDER BY study_id"
            ),
            (
                "INSERT INTO cbir.image (dataset_id, patient_id, study_id, series_id, source, split, modality, sop_uid, sha256)"
                " SELECT s.dataset_id, s.patient_id, s.study_id, se.series_id, s.study_uid || '/' || n,"
                " CASE WHEN s.study_id %% 3 = 0 THEN 'test' ELSE 'train' END, 'XR', s.study_uid || '.' || n, 'x'"
                " FROM cbir.study AS s JOIN cbir.series AS se USING (study_id), generate_series(1, 2) AS n"
                " WHERE study_uid LIKE 'study ' || %(site)s || '%%' ORDER BY s.study_id, n"
            ),
            (
                "INSERT INTO cbir.image_label (image_id, label_id) SELECT image_id, label_id FROM cbir.image AS i"
                " JOIN cbir.label AS l ON l.name = CASE WHEN image_id %% 4 < 3 THEN 'XR/shared' ELSE 'XR/' || %(site)s END"
                " WHERE i.source LIKE 'study ' || %(site)s || '%%' ORDER BY image_id"
            ),
            (
                "INSERT INTO cbir.failure (stage, dataset_id, source, reason, detail)"
                " SELECT 'ingest', dataset_id, 'broken ' || name, 'corrupt', 'x' FROM cbir.dataset WHERE name = %(site)s"
            ),
        ):
            connection.execute(statement.encode(), {"site": site})
        ids = connection.execute(
            "SELECT image_id FROM cbir.image WHERE source LIKE %s ORDER BY 1", [f"study {site}%"]
        ).fetchall()
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO cbir.embedding_toy VALUES (%s, %s::vector)",
                [(row[0], str(v.tolist())) for row, v in zip(ids, vectors("ab".index(site)), strict=True)],
            )


def evaluated(connection: psycopg.Connection, *datasets: str) -> None:
    stored = find_encoder(connection, "toy")
    assert stored is not None
    dsn = connection.info.dsn
    evaluate(
        connection, stored, EvaluationOptions(datasets=datasets, k=5, mode="exact", workers=1),
        connect=lambda: psycopg.connect(dsn, autocommit=True),
    )  # fmt: skip


def probed(connection: psycopg.Connection, *datasets: str) -> None:
    classes, answers = sure_answers(connection, datasets)
    stored_probe(connection, "toy", datasets, classes, answers)


def indexed(connection: psycopg.Connection) -> None:
    stored = find_encoder(connection, "toy")
    assert stored is not None
    dsn = connection.info.dsn
    build_index(connection, stored, Hnsw(), connect=lambda: psycopg.connect(dsn, autocommit=True))


def secure(connection: psycopg.Connection, logins: Logins) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO cbir.dataset_access (role_name, dataset) VALUES (%s, %s)",
            [(logins.names["site_a"], "a"), (logins.names["site_b"], "b"), (logins.names["ingest_a"], "a")],
        )
    connection.execute("SELECT cbir.set_row_security(TRUE)")


def answer(connection: psycopg.Connection, query: str, *parameters: object) -> Any:
    """Rows, or the whole of the error that a client gets."""
    try:
        return sorted(connection.execute(query.encode(), parameters).fetchall(), key=repr)
    except psycopg.Error as error:
        diag = error.diag
        return type(error).__name__, diag.message_primary, diag.message_detail, diag.message_hint
