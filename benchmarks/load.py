"""Measures how fast embeddings load, beside a bare binary COPY of the same rows, and in how much memory.

    python benchmarks/load.py --rows 200000 --dim 512

Three ways to load the same rows, in turn, several times. The result is their ratio:

    cbirdb          arrays -> binary rows -> COPY, a transaction per batch, like encode and import-embeddings
    bare COPY       rows that were encoded beforehand, the same batches, into a table of the same definition
    no constraints  the same into a table without primary key, foreign key and norm check, to show their cost

Every rate includes the commit. The peak memory is that of the loading process alone, at this number of rows and at a
quarter of it; it must not grow with the rows.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psycopg
from clustered import clustered_vectors
from psycopg import sql
from server import add_server_options, server_settings

from cbirdb.db.copy import HEADER, TRAILER, copy_embeddings, encode_rows
from cbirdb.db.embeddings import drop_encoder, find_encoder, register_encoder
from cbirdb.db.schema.open import open_database

ENCODER = "benchmark-load"
DATASET = "benchmark-load"
BATCH = 4096


def prepare(connection: psycopg.Connection, rows: int, dim: int, precision: str) -> tuple[str, int]:
    """Create an empty embedding table, one without constraints, and ``rows`` images; return table and first image
    id.
    """
    clean_up(connection)
    connection.execute("INSERT INTO cbir.dataset (name, reader) VALUES (%s, 'folder')", [DATASET])
    connection.execute(
        "INSERT INTO cbir.image (dataset_id, source) SELECT dataset_id, n::text"
        " FROM cbir.dataset, generate_series(1, %s) AS n WHERE name = %s",
        [rows, DATASET],
    )
    connection.execute("VACUUM ANALYZE cbir.image")
    stored = register_encoder(connection, ENCODER, dim=dim, precision=precision, spec={}, provenance={})
    connection.execute(
        sql.SQL("CREATE TABLE cbir.benchmark_bare (LIKE cbir.{} INCLUDING STORAGE)").format(
            sql.Identifier(stored.table)
        )
    )
    connection.execute("ALTER TABLE cbir.benchmark_bare ALTER COLUMN embedding SET STORAGE PLAIN")
    first = connection.execute(
        "SELECT min(image_id) FROM cbir.image JOIN cbir.dataset USING (dataset_id) WHERE name = %s", [DATASET]
    ).fetchone()
    return stored.table, first[0]


def clean_up(connection: psycopg.Connection) -> None:
    """Remove everything that this benchmark creates."""
    stored = find_encoder(connection, ENCODER)
    if stored is not None:
        drop_encoder(connection, stored)
    connection.execute("DROP TABLE IF EXISTS cbir.benchmark_bare")
    connection.execute("DELETE FROM cbir.dataset WHERE name = %s", [DATASET])


def load_with_cbirdb(connection: psycopg.Connection, table: str, batches: list, precision: str) -> None:
    """Load in the product's way."""
    for ids, vectors in batches:
        copy_embeddings(connection, table, ids, vectors, precision)


def load_bare(connection: psycopg.Connection, table: str, buffers: list[bytes]) -> None:
    """COPY finished bytes, a transaction per batch."""
    statement = sql.SQL("COPY cbir.{} (image_id, embedding) FROM STDIN (FORMAT binary)").format(sql.Identifier(table))
    for buffer in buffers:
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(HEADER)
            copy.write(buffer)
            copy.write(TRAILER)


def peak_memory(arguments: argparse.Namespace, rows: int) -> float:
    """Return the peak MB of a process that only generates and loads ``rows`` rows."""
    command = [
        sys.executable, __file__, "--child", "--rows", str(rows), "--dim", str(arguments.dim),
        "--precision", arguments.precision, *(["--dsn", arguments.dsn] if arguments.dsn else []),
        *(["--home", str(arguments.home)] if arguments.home else []),
    ]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def child(arguments: argparse.Namespace) -> None:
    """Generate and load as a stream; print this process's own peak memory."""
    with open_database(server_settings(arguments)) as connection:
        table, first = prepare(connection, arguments.rows, arguments.dim, arguments.precision)
        start = first
        for _, vectors in clustered_vectors(arguments.rows, arguments.dim, batch=BATCH):
            ids = np.arange(start, start + len(vectors), dtype=np.int64)
            copy_embeddings(connection, table, ids, vectors, arguments.precision)
            start += len(vectors)
        clean_up(connection)
    # Not getrusage: its peak includes that of the parent, from before this program started.
    status = Path("/proc/self/status").read_text()
    print(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024)


def measure(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Return the rows per second of each way, one value per turn."""
    rates: dict[str, list[float]] = {"cbirdb": [], "bare COPY": [], "no constraints": []}
    with open_database(server_settings(arguments)) as connection:
        table, first = prepare(connection, arguments.rows, arguments.dim, arguments.precision)
        batches, start = [], first
        for _, vectors in clustered_vectors(arguments.rows, arguments.dim, batch=BATCH):
            batches.append((np.arange(start, start + len(vectors), dtype=np.int64), vectors))
            start += len(vectors)
        buffers = [encode_rows(ids, vectors, arguments.precision) for ids, vectors in batches]
        ways = {
            "cbirdb": lambda: load_with_cbirdb(connection, table, batches, arguments.precision),
            "bare COPY": lambda: load_bare(connection, table, buffers),
            "no constraints": lambda: load_bare(connection, "benchmark_bare", buffers),
        }
        for turn in range(arguments.repeat + 1):
            for name, way in ways.items():
                connection.execute(sql.SQL("TRUNCATE cbir.{}, cbir.benchmark_bare").format(sql.Identifier(table)))
                connection.execute("CHECKPOINT")
                began = time.perf_counter()
                way()
                if turn:  # the first turn warms caches and is not counted
                    rates[name].append(arguments.rows / (time.perf_counter() - began))
        clean_up(connection)
    return rates


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--precision", choices=["half", "single"], default="half")
    parser.add_argument("--repeat", type=int, default=5)
    add_server_options(parser)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
        return
    rates = measure(arguments)
    memory = {rows: peak_memory(arguments, rows) for rows in (arguments.rows // 4, arguments.rows)}
    report(arguments, rates, memory)


def report(arguments: argparse.Namespace, rates: dict[str, list[float]], memory: dict[int, float]) -> None:
    """Print the ratios first."""
    print(
        f"{arguments.rows:,} rows, {arguments.dim} dimensions, {arguments.precision} precision, {arguments.repeat} turns"
    )
    print(f"{'':16}{'ratio to bare COPY':>20}{'rows/s, median':>16}{'lowest':>10}{'highest':>10}")
    ratios = {}
    for name, values in rates.items():
        pairs = [a / b for a, b in zip(values, rates["bare COPY"], strict=True)]
        ratios[name] = statistics.median(pairs)
        print(
            f"{name:16}{ratios[name]:>20.2f}{statistics.median(values):>16,.0f}{min(values):>10,.0f}{max(values):>10,.0f}"
        )
    for rows, peak in memory.items():
        print(f"peak memory of the loading process at {rows:,} rows: {peak:,.0f} MB")
    if arguments.json:
        figures = {
            "arguments": vars(arguments) | {"json": None, "home": None},
            "rates": rates,
            "ratios": ratios,
            "memory_mb": memory,
        }
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
