"""All that a server's catalogue knows about schema ``cbir``, and a small encoder to search with."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import psycopg

from cbirdb.db.copy import copy_embeddings
from cbirdb.db.embeddings import register_encoder
from cbirdb.db.schema import sql_objects
from cbirdb.index import build_index
from cbirdb.index.methods import Hnsw

SQL_FILES = list(sql_objects.sql_files())
CREATED = re.compile(
    r"^CREATE (?:OR REPLACE )?(FUNCTION|AGGREGATE|VIEW|TYPE) (?:cbir|cbir_internal)\.(\w+)", re.MULTILINE
)
CATALOGUE = {
    "functions": "SELECT oid::regprocedure::text, pg_get_functiondef(oid) FROM pg_proc"
    " WHERE pronamespace::regnamespace::text IN ('cbir', 'cbir_internal') AND prokind <> 'a'",
    "aggregates": "SELECT aggfnoid::regprocedure::text, to_jsonb(a)::text FROM pg_aggregate AS a"
    " JOIN pg_proc ON pg_proc.oid = aggfnoid WHERE pronamespace::regnamespace::text IN ('cbir', 'cbir_internal')",
    "views": "SELECT oid::regclass::text, pg_get_viewdef(oid) FROM pg_class"
    " WHERE relnamespace = 'cbir'::regnamespace AND relkind = 'v'",
    "columns": "SELECT attrelid::regclass::text, attnum, attname, format_type(atttypid, atttypmod), attnotnull,"
    " attidentity, pg_get_expr(adbin, adrelid) FROM pg_attribute JOIN pg_class c ON c.oid = attrelid"
    " LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum"
    " WHERE relnamespace = 'cbir'::regnamespace AND relkind IN ('r', 'v', 'c') AND attnum > 0 AND NOT attisdropped",
    "constraints": "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
    " WHERE connamespace = 'cbir'::regnamespace",
    "indexes": "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index"
    " JOIN pg_class c ON c.oid = indexrelid WHERE relnamespace = 'cbir'::regnamespace",
    "triggers": "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal",
    "comments": "SELECT (pg_identify_object(classoid, objoid, objsubid)).identity, description FROM pg_description"
    " WHERE (pg_identify_object(classoid, objoid, objsubid)).schema IN ('cbir', 'cbir_internal')"
    " OR classoid = 'pg_namespace'::regclass AND objoid::regnamespace::text IN ('cbir', 'cbir_internal')"
    " OR (pg_identify_object(classoid, objoid, objsubid)).identity LIKE 'cbir%'",
    "grants": "SELECT oid::regclass::text, relacl::text FROM pg_class WHERE relnamespace = 'cbir'::regnamespace"
    " UNION ALL SELECT oid::regprocedure::text, proacl::text FROM pg_proc WHERE pronamespace::regnamespace::text IN ('cbir', 'cbir_internal')",
    "revision": "SELECT version_num FROM cbir.alembic_version",
}


def dump(connection: psycopg.Connection) -> dict[str, list[tuple[Any, ...]]]:
    """All that the catalogue knows about schema ``cbir``, in an order of its own."""
    return {name: sorted(connection.execute(query).fetchall(), key=repr) for name, query in CATALOGUE.items()}


def toy_encoder(connection: psycopg.Connection, dsn: str, *, images: int = 12) -> list[int]:
    """Labelled images in two splits, embedded by an encoder ``toy`` and indexed with HNSW; returns their ids."""
    connection.execute("INSERT INTO cbir.dataset (name, reader) VALUES ('d', 'test')")
    connection.execute(
        "INSERT INTO cbir.image (dataset_id, source, split)"
        " SELECT dataset_id, n::text, CASE WHEN n <= 3 THEN 'test' ELSE 'train' END"
        " FROM cbir.dataset, generate_series(1, %s) AS n",
        [images],
    )
    connection.execute("INSERT INTO cbir.label (name) VALUES ('XR/chest/a'), ('XR/chest/b')")
    connection.execute(
        "INSERT INTO cbir.image_label (image_id, label_id)"
        " SELECT image_id, label_id FROM cbir.image JOIN cbir.label ON label_id % 2 = image_id % 2"
    )
    ids = [row[0] for row in connection.execute("SELECT image_id FROM cbir.image ORDER BY 1")]
    stored = register_encoder(connection, "toy", dim=4, precision="half", spec={}, provenance={})
    vectors = np.random.default_rng(0).normal(size=(images, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    copy_embeddings(connection, stored.table, np.array(ids), vectors.astype(np.float32), "half")
    build_index(connection, stored, Hnsw(), connect=lambda: psycopg.connect(dsn, autocommit=True))
    return ids
