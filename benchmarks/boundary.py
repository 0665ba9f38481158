"""Measures the cost of the security boundary for a search: one function run as cbir_search and as its caller, in turns.

    python benchmarks/boundary.py --home /tmp/boundary

Creates a database with one encoder's clustered vectors and an HNSW index, and a login that may read. In each turn the
function first runs as an upgrade creates it (SECURITY DEFINER, owned by cbir_search). Then it runs as SECURITY INVOKER, as
before there was a boundary; for that the login has rights on everything. Finally row-level security is switched on: the
login sees half of the images, and its searches must be exact.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median

import numpy as np
import psycopg
from clustered import clustered_vectors
from psycopg import sql
from psycopg.conninfo import make_conninfo
from server import add_server_options, server_settings

from cbirdb.db.connection import connect
from cbirdb.db.copy import copy_embeddings
from cbirdb.db.embeddings import find_encoder, register_encoder
from cbirdb.db.schema.migrate import upgrade_own
from cbirdb.index import build_index
from cbirdb.index.methods import Hnsw

DATABASE = "cbirdb_boundary"
LOGIN = "cbirdb_boundary_reader"
SEARCH = "SELECT * FROM cbir.similar_images('bench', image_id => %s, k => 10)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_server_options(parser)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--searches", type=int, default=100, help="in each turn, each way")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    with connect(server_settings(arguments)) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)".encode())
        admin.execute(f"CREATE DATABASE {DATABASE}".encode())
        dsn = make_conninfo(admin.info.dsn, dbname=DATABASE)
        with psycopg.connect(dsn, autocommit=True) as owner:
            fill(owner, dsn, arguments.rows, arguments.dim)
            reader = make_conninfo(dsn, user=LOGIN)
            figures = compare(owner, reader, arguments.rows, arguments.turns, arguments.searches)
            figures["restricted_ms"] = restricted(owner, reader, arguments.searches)
        admin.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)".encode())
        admin.execute(f"DROP ROLE {LOGIN}".encode())
    figures |= {"rows": arguments.rows, "dim": arguments.dim, "turns": arguments.turns, "searches": arguments.searches}
    print(json.dumps(figures, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=1) + "\n")


def fill(owner: psycopg.Connection, dsn: str, rows: int, dim: int) -> None:
    owner.execute("CREATE EXTENSION IF NOT EXISTS vector")
    upgrade_own(owner)
    owner.execute(f"DROP ROLE IF EXISTS {LOGIN}".encode())
    owner.execute(f"CREATE ROLE {LOGIN} LOGIN IN ROLE cbir_reader".encode())
    register_encoder(owner, "bench", dim=dim, precision="half", spec={}, provenance={})
    owner.execute("INSERT INTO cbir.dataset (name, reader) VALUES ('a', 'test'), ('b', 'test')")
    owner.execute(
        "INSERT INTO cbir.image (dataset_id, source, modality)"
        " SELECT d.dataset_id, n::text, 'XR' FROM generate_series(1, %s) AS n"
        " INNER JOIN cbir.dataset AS d ON d.name = CASE WHEN n %% 2 = 0 THEN 'a' ELSE 'b' END ORDER BY n",
        [rows],
    )
    first = 1
    for _, vectors in clustered_vectors(rows, dim, latent=64):
        ids = np.arange(first, first + len(vectors))
        copy_embeddings(owner, "embedding_bench", ids, vectors, "half")
        first += len(vectors)
    stored = find_encoder(owner, "bench")
    if stored is None:
        raise SystemExit("the encoder was not registered")
    build_index(owner, stored, Hnsw(), connect=lambda: psycopg.connect(dsn, autocommit=True))
    owner.execute("ANALYZE")


def compare(owner: psycopg.Connection, reader: str, rows: int, turns: int, searches: int) -> dict[str, object]:
    signature = owner.execute("SELECT 'cbir.similar_images'::regproc::regprocedure::text").fetchone()
    for statement in (
        f"GRANT SELECT ON ALL TABLES IN SCHEMA cbir TO {LOGIN}",
        f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA cbir TO {LOGIN}",
    ):
        owner.execute(statement.encode())
    ways: dict[str, list[float]] = {"definer": [], "invoker": []}
    random = np.random.default_rng(0)
    for _ in range(turns):
        for way, times in ways.items():
            owner.execute(
                sql.SQL("ALTER FUNCTION {} SECURITY {}").format(sql.SQL(str(signature[0])), sql.SQL(way.upper()))  # type: ignore[index]
            )
            times.extend(timed(reader, random.integers(1, rows, searches)))
    ratios = [a / b for a, b in zip(ways["definer"], ways["invoker"], strict=True)]
    low, high = np.percentile([median(random.choice(ratios, len(ratios))) for _ in range(500)], [2.5, 97.5])
    return {
        **{f"{way}_ms": round(1000 * median(times), 4) for way, times in ways.items()},
        "ratio": round(median(ratios), 4),
        "ratio_95": [round(float(low), 4), round(float(high), 4)],
    }


def restricted(owner: psycopg.Connection, reader: str, searches: int) -> float:
    owner.execute("ALTER FUNCTION cbir.similar_images SECURITY DEFINER")
    owner.execute("INSERT INTO cbir.dataset_access (role_name, dataset) VALUES (%s, 'a')", [LOGIN])
    owner.execute("SELECT cbir.set_row_security(TRUE)")
    own = owner.execute(
        "SELECT array_agg(image_id) FROM cbir.image AS i INNER JOIN cbir.dataset AS d USING (dataset_id) WHERE d.name = 'a'"
    ).fetchone()
    ids = np.random.default_rng(1).choice(own[0] if own else [], searches)
    return round(1000 * median(timed(reader, ids)), 4)


def timed(reader: str, ids: np.ndarray) -> list[float]:
    """Return the seconds of each search, in a session of its own that has searched before."""
    times = []
    with psycopg.connect(reader, autocommit=True, prepare_threshold=None) as connection:
        for _ in range(5):
            connection.execute(SEARCH, [int(ids[0])])
        for image_id in ids:
            started = time.perf_counter()
            connection.execute(SEARCH, [int(image_id)]).fetchall()
            times.append(time.perf_counter() - started)
    return times


if __name__ == "__main__":
    main()
