"""Measures how long searches and writers wait for commands that lock tables: the time from each lock's grant to its release.

    python benchmarks/lock_holds.py --home locks --rows 20000 --json benchmarks/lock_holds.json

Each command is a process. Another session reads ``pg_locks`` continuously and so sees how long a command holds each lock on
a table or view of schema cbir that blocks readers (ACCESS EXCLUSIVE) or writers (SHARE and above). Nobody else uses the
database.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import psycopg
from clustered import clustered_vectors
from server import add_server_options, server_settings

from cbirdb.db.connection import conninfo
from cbirdb.db.copy import copy_embeddings
from cbirdb.db.embeddings import drop_encoder, find_encoder, register_encoder
from cbirdb.db.schema.open import open_database

PROGRAM = Path(sys.executable).with_name("cbirdb")
NAME, DIM = "lock-holds", 256
COMMANDS = {
    "index build (the first)": ["index", "build", "-e", NAME, "--method", "hnsw", "--no-audit"],
    "index build (again)": ["index", "build", "-e", NAME, "--method", "hnsw", "--no-audit"],
    "index drop": ["index", "drop", "-e", NAME],
    "db row-security on": ["db", "row-security", "on"],
    "db upgrade, row security on": ["db", "upgrade"],
    "db row-security off": ["db", "row-security", "off"],
    "db upgrade": ["db", "upgrade"],
    "encoders drop": ["encoders", "drop", NAME, "--yes"],
}
HELD = """
SELECT l.pid, c.relname, l.mode
FROM pg_locks AS l INNER JOIN pg_class AS c ON c.oid = l.relation
WHERE l.granted AND c.relnamespace = 'cbir'::regnamespace AND c.relkind IN ('r', 'v')
  AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
"""


def fill(connection: psycopg.Connection, rows: int) -> None:
    """Create images without labels, and clustered vectors."""
    clean_up(connection)
    connection.execute("INSERT INTO cbir.dataset (name, reader) VALUES (%s, 'test')", [NAME])
    ids = connection.execute(
        "INSERT INTO cbir.image (dataset_id, source) SELECT dataset_id, n::text FROM cbir.dataset,"
        " generate_series(1, %s) AS n WHERE name = %s RETURNING image_id",
        [rows, NAME],
    ).fetchall()
    stored = register_encoder(connection, NAME, dim=DIM, precision="half", spec={}, provenance={})
    start = 0
    for _, vectors in clustered_vectors(rows, DIM):
        batch = np.array([row[0] for row in ids[start : start + len(vectors)]], dtype=np.int64)
        copy_embeddings(connection, stored.table, batch, vectors, "half")
        start += len(vectors)


def clean_up(connection: psycopg.Connection) -> None:
    stored = find_encoder(connection, NAME)
    if stored is not None:
        drop_encoder(connection, stored)
    connection.execute("DELETE FROM cbir.dataset WHERE name = %s", [NAME])


def longest(connection: psycopg.Connection, dsn: str, arguments: list[str]) -> dict[str, float | list[str]]:
    """Run a command; return the longest lock-outs of readers and writers, and the tables that readers were locked out
    of.
    """
    process = subprocess.Popen([PROGRAM, "--dsn", dsn, "-q", *arguments], stdout=subprocess.DEVNULL)
    first: dict[tuple[int, str, str], float] = {}
    held: dict[str, float] = defaultdict(float)
    tables: set[str] = set()
    began = time.perf_counter()
    while process.poll() is None:
        now = time.perf_counter()
        found = {tuple(row) for row in connection.execute(HELD)}
        for lock in found:
            whom = "readers" if lock[2] == "AccessExclusiveLock" else "writers"
            held[whom] = max(held[whom], now - first.setdefault(lock, now))
            if whom == "readers":
                tables.add(lock[1])
        for lock in set(first) - found:
            del first[lock]
    if process.returncode:
        sys.exit(f"{arguments} ended with {process.returncode}")
    return {
        "readers_ms": round(held["readers"] * 1000),
        "writers_ms": round(max(held.values(), default=0.0) * 1000),
        "command_ms": round((time.perf_counter() - began) * 1000),
        "tables": sorted(tables),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_server_options(parser)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    settings = server_settings(arguments)
    rows = []
    with open_database(settings) as connection:
        for _ in range(arguments.repeat):
            fill(connection, arguments.rows)
            for name, line in COMMANDS.items():
                rows.append({"what": name, **longest(connection, conninfo(settings), line)})
                print(json.dumps(rows[-1]))
        clean_up(connection)
    best = [
        {"what": command} | {
            name: sorted(row[name] for row in rows if row["what"] == command)[arguments.repeat // 2]
            for name in ("readers_ms", "writers_ms", "command_ms")
        } | {"readers_locked_out_of": len(next(row for row in rows if row["what"] == command)["tables"])}
        for command in COMMANDS
    ]  # fmt: skip
    print(json.dumps(best, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": arguments.rows, "dim": DIM, "medians": best}, indent=1) + "\n")


if __name__ == "__main__":
    main()
