"""Measures an image's size on disk per encoder, and the time of an index over it: the figures of docs/operations.md.

    python benchmarks/sizing.py --home sizing --rows 200000 --json benchmarks/sizing.json

For each dimension and precision: bytes per image of the embedding table, of its key and of its HNSW index, the seconds
of the build, and pgvector's own memory for it as `cbirdb index build` estimates it. The catalogue's share is measured on
rows with sizes, hash, patient, study and one label, like those of the datasets' readers. Sizes per image hardly depend on
the number of rows. Seconds per million do (an index grows a little faster than its rows), so the number of rows stands
beside them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import psycopg
from clustered import clustered_vectors

from cbirdb.config import Settings
from cbirdb.db.connection import connect
from cbirdb.db.copy import copy_embeddings
from cbirdb.db.embeddings import drop_encoder, find_encoder, get_encoder, register_encoder
from cbirdb.db.schema.open import open_database
from cbirdb.index import build_index
from cbirdb.index.methods import Hnsw

NAME = "benchmark-sizing"
BATCH = 4096
CASES = [(256, "half"), (512, "half"), (768, "half"), (1024, "half"), (768, "single")]
"""SAM and MedSAM; MedCLIP and BiomedCLIP; ViT-B/16, CLIP, MAE, DINOv2; tiny-image and ResNet-50 (1000); 32 bit."""


CATALOGUE = (
    """
    INSERT INTO cbir.patient (dataset_id, pseudonym) SELECT dataset_id, left(encode(sha256(n::text::bytea), 'hex'), 32)
    FROM cbir.dataset, generate_series(1, %(rows)s / 4) AS n WHERE name = %(name)s
    """,
    """
    INSERT INTO cbir.study (dataset_id, patient_id, study_uid) SELECT dataset_id, patient_id, pseudonym || '/' || n
    FROM cbir.patient JOIN cbir.dataset USING (dataset_id), generate_series(1, 2) AS n WHERE name = %(name)s
    """,
    """
    INSERT INTO cbir.image (dataset_id, patient_id, study_id, source, split, modality, anatomic_region, width, height,
        file_bytes, file_modified_ns, sha256)
    SELECT s.dataset_id, s.patient_id, s.study_id, concat('images_', n, '/images/', s.study_id, '_', n, '.png'),
        'train', 'XR', 'chest', 1024, 1024, 400000, 1700000000000000000, sha256((s.study_id || '/' || n)::bytea)
    FROM cbir.study AS s JOIN cbir.dataset AS d USING (dataset_id), generate_series(1, 2) AS n WHERE d.name = %(name)s
    """,
    """
    INSERT INTO cbir.image_label (image_id, label_id) SELECT image_id, label_id FROM cbir.image
    JOIN cbir.dataset AS d USING (dataset_id), cbir.label AS l
    WHERE d.name = %(name)s AND l.name = 'XR/chest/sizing'
    """,
)
"""Rows like those of the readers of official datasets: one patient for four images, one study for two."""


def clean_up(connection: psycopg.Connection) -> None:
    stored = find_encoder(connection, NAME)
    if stored is not None:
        drop_encoder(connection, stored)
    connection.execute("DELETE FROM cbir.dataset WHERE name = %s", [NAME])


def make_catalogue(connection: psycopg.Connection, rows: int) -> tuple[np.ndarray, float]:
    """Create images, each with patient, study, hash and label; return their ids and the catalogue's bytes per image."""
    tables = ("image", "image_label", "patient", "study")
    before = sum(size(connection, f"cbir.{table}") for table in tables)
    connection.execute("INSERT INTO cbir.dataset (name, reader, root) VALUES (%s, 'nih14', '/archive')", [NAME])
    connection.execute("INSERT INTO cbir.label (name) VALUES ('XR/chest/sizing') ON CONFLICT (name) DO NOTHING")
    for statement in CATALOGUE:
        connection.execute(statement, {"rows": rows, "name": NAME})
    found = connection.execute(
        "SELECT image_id FROM cbir.image JOIN cbir.dataset USING (dataset_id) WHERE name = %s ORDER BY image_id", [NAME]
    ).fetchall()
    ids = np.array([row[0] for row in found], dtype=np.int64)
    return ids, (sum(size(connection, f"cbir.{table}") for table in tables) - before) / len(ids)


def size(connection: psycopg.Connection, table: str) -> int:
    row = connection.execute("SELECT pg_total_relation_size(%s::regclass)", [table]).fetchone()
    return int(row[0]) if row else 0


def measure(connection: psycopg.Connection, settings: Settings, ids: np.ndarray, dim: int, precision: str) -> dict:
    """Load and index vectors of one kind, and read their sizes from cbir.encoder_size."""
    stored = register_encoder(connection, NAME, dim=dim, precision=precision, spec={}, provenance={})
    load_s, start = 0.0, 0
    for _, vectors in clustered_vectors(len(ids), dim, batch=BATCH):
        started = time.perf_counter()
        copy_embeddings(connection, stored.table, ids[start : start + len(vectors)], vectors, stored.precision)
        load_s += time.perf_counter() - started
        start += len(vectors)
    built = build_index(connection, get_encoder(connection, NAME), Hnsw(), connect=lambda: connect(settings))
    row = connection.execute(
        "SELECT table_bytes, key_bytes, vector_index_bytes FROM cbir.encoder_size WHERE encoder = %s", [NAME]
    ).fetchone()
    table, key, index = row or (0, 0, 0)
    drop_encoder(connection, stored)
    rows, million = len(ids), 1_000_000 / len(ids)
    return {
        "dim": dim, "precision": precision, "rows": rows,
        "table_bytes_per_image": round(table / rows, 1), "key_bytes_per_image": round(key / rows, 1),
        "index_bytes_per_image": round(index / rows, 1), "load_rows_per_s": round(rows / load_s),
        "build_s": round(built.build_seconds, 1), "build_s_per_million": round(built.build_seconds * million),
        "build_memory_mb_per_million": round(Hnsw().memory_estimate(1_000_000, dim, precision) / 2**20),
    }  # fmt: skip


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000, help="A multiple of four.")
    parser.add_argument("--home", type=Path, required=True, help="Folder of an embedded server of the benchmark's own.")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    settings = Settings(home=options.home)
    with open_database(settings) as connection:
        clean_up(connection)
        server = connection.execute(
            "SELECT current_setting('server_version'), (SELECT extversion FROM pg_extension WHERE extname = 'vector'),"
            " current_setting('maintenance_work_mem'), current_setting('max_parallel_maintenance_workers')"
        ).fetchone()
        ids, catalogue = make_catalogue(connection, options.rows)
        print(f"catalogue: {catalogue:.0f} bytes per image, with its share of patient, study and one label")
        results = []
        for dim, precision in CASES:
            results.append(measure(connection, settings, ids, dim, precision))
            print("  ".join(f"{name}={value}" for name, value in results[-1].items()), flush=True)
        clean_up(connection)
    if options.json:
        keys = ("postgresql", "pgvector", "maintenance_work_mem", "max_parallel_maintenance_workers")
        document = {"server": dict(zip(keys, server or (), strict=True)), "catalogue_bytes_per_image": round(catalogue)}
        options.json.write_text(json.dumps(document | {"encoders": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
