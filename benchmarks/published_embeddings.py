"""Measures how fast the paper's published files load at their real size, beside a bare binary COPY of the same bytes.

    python benchmarks/published_embeddings.py --rows 200000
    python benchmarks/published_embeddings.py --rows 1600000 --folder FOLDER

It first writes files of the published shape into a folder (if named by --folder, it is kept and reused): four CSV files
with one column per label, and four HDF5 files with one HDF5 dataset per image, named by its path. Then, as a user would, in
a database of its own:

    ingest paper-csv             rows and labels into the catalogue
    import-embeddings            HDF5 -> unit vectors -> COPY
    import-embeddings, killed    the same again, killed when half is loaded, and run once more to its end
    import-embeddings, repeated  everything is already loaded
    reading HDF5 alone           the vectors, read and discarded: the limit of every import of these files
    bare COPY                    the same vectors, encoded beforehand, into a table of the same definition

Peak memory is that of each command's process.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
import psycopg
from clustered import clustered_vectors
from psycopg import sql
from psycopg.conninfo import make_conninfo
from server import add_server_options, server_settings

from cbirdb.db.copy import HEADER, TRAILER, encode_rows
from cbirdb.db.schema.open import open_database
from cbirdb.ingest.hdf5 import leaves, open_file, read_vectors

ENCODER = "published"
BATCH = 4096
DATASETS = {
    # Share of the images, number of labels, folder of an image. Together 185 labels, as in the paper.
    "radiology_ai": (0.80, 165, "radiology_ai/{modality}/{region}/{finding}/{finding}{number:06}.png"),
    "nih14": (0.05, 6, "nih14/images/{number:08}_000.png"),
    "mimic": (0.12, 7, "files/p{folder}/p{patient:08}/s{study:08}/{number:040x}.jpg"),
    "CheXpert": (0.03, 7, "CheXpert-v1.0/train/patient{patient:05}/study1/view1_frontal_{number}.jpg"),
}
MODALITIES = ("CT", "MR", "US")
REGIONS = ("abd", "ankle", "brain", "chest", "hip", "knee", "lung", "shoulder", "spine", "thyroid", "liver")


def labels_of(dataset: str, count: int) -> list[tuple[str, str, str]]:
    """Return (modality, region, finding) of each label."""
    if dataset != "radiology_ai":
        return [("XR", "chest", f"finding {dataset} {number}") for number in range(count)]
    return [(MODALITIES[n % 3], REGIONS[n % 11], f"finding_{n}") for n in range(count)]


def write_files(folder: Path, rows: int, dim: int, seed: int) -> None:
    """Write the CSV and HDF5 files of all datasets, the same for the same arguments."""
    (folder / "datasets").mkdir(parents=True, exist_ok=True)
    (folder / "embeddings").mkdir(exist_ok=True)
    for offset, (name, (share, count, pattern)) in enumerate(DATASETS.items()):
        labels = labels_of(name, count)
        number = 0
        with (
            (folder / "datasets" / f"{name}.csv").open("w") as listed,
            h5py.File(folder / "embeddings" / f"{name}.h5", "w") as vectors_file,
        ):
            columns = ["/".join(label) for label in labels]
            listed.write(",".join(["filepath,dataset,split,modality,anatomic_region", *columns]) + "\n")
            for classes, vectors in clustered_vectors(round(rows * share), dim, seed=seed + offset):
                for label, vector in zip(classes % count, vectors, strict=True):
                    modality, region, finding = labels[label]
                    path = pattern.format(
                        modality=modality, region=region, finding=finding, number=number, patient=number // 6,
                        folder=10 + number % 10, study=number // 2,
                    )  # fmt: skip
                    cells = ["0"] * count
                    cells[label] = "1"
                    split = "test" if number % 10 == 0 else "val" if number % 10 == 1 else "train"
                    listed.write(",".join([path, name, split, modality, region, *cells]) + "\n")
                    vectors_file.create_dataset(path, data=vector)
                    number += 1


def command(dsn: str, *arguments: object) -> list[str]:
    """Return the command line, as a user calls it."""
    return [str(Path(sys.executable).with_name("cbirdb")), "--dsn", dsn, *map(str, arguments)]


PROGRAM = """
import re, sys
from pathlib import Path
from cbirdb.cli.main import run
code = run(sys.argv[1:])
# Not getrusage: its peak includes that of the parent, from before this program started.
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1], file=sys.stderr)
sys.exit(code)
"""


def timed(dsn: str, *arguments: object) -> tuple[float, float, list[dict]]:
    """Return seconds, peak MB and rows of one command."""
    call = [sys.executable, "-c", PROGRAM, "--dsn", dsn, "-q", *map(str, arguments), "--format", "json"]
    began = time.perf_counter()
    done = subprocess.run(call, check=False, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if done.returncode != 0:
        raise SystemExit(f"{arguments} ended with {done.returncode}: {done.stderr}")
    return seconds, int(done.stderr.split()[-1]) / 1024, json.loads(done.stdout)


def count(connection: psycopg.Connection) -> int:
    """Count the vectors in the embedding table; return 0 if there is no table yet."""
    if connection.execute("SELECT to_regclass('cbir.embedding_published')").fetchone()[0] is None:
        return 0
    return connection.execute("SELECT count(*) FROM cbir.embedding_published").fetchone()[0]


def kill_half_way(arguments: list[str], connection: psycopg.Connection, rows: int) -> int:
    """Start an import and kill it when half of its vectors are loaded; return their number then."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while count(connection) < rows / 2 and process.poll() is None:
        time.sleep(1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return count(connection)


def batches(files: list[Path], dim: int) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield names and vectors, BATCH at a time."""
    for path in files:
        with open_file(path) as file:
            stream = leaves(file)
            while batch := list(islice(stream, BATCH)):
                yield [leaf.name for leaf in batch], read_vectors(file, batch, dim)[0]


def read_alone(files: list[Path], dim: int) -> float:
    """Return the seconds of reading all vectors."""
    began = time.perf_counter()
    for _ in batches(files, dim):
        pass
    return time.perf_counter() - began


def finished_rows(connection: psycopg.Connection, files: list[Path], dim: int) -> Iterator[bytes]:
    """Yield the vectors in the format of binary COPY, with the catalogue's image ids."""
    for names, vectors in batches(files, dim):
        found = dict(
            connection.execute("SELECT source, image_id FROM cbir.image WHERE source = ANY(%s)", [names]).fetchall()
        )
        yield encode_rows(np.array([found[name] for name in names], dtype=np.int64), vectors, "half")


def bare_copy(connection: psycopg.Connection, table: str, batches: Iterator[bytes]) -> float:
    """Return the seconds of COPY alone, a transaction per batch, without the encoding of the bytes."""
    statement = sql.SQL("COPY cbir.{} (image_id, embedding) FROM STDIN (FORMAT binary)").format(sql.Identifier(table))
    seconds = 0.0
    for batch in batches:
        began = time.perf_counter()
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(HEADER)
            copy.write(batch)
            copy.write(TRAILER)
        seconds += time.perf_counter() - began
    return seconds


def measure(dsn: str, folder: Path, dim: int, *, everything: bool) -> dict[str, float]:
    """Measure every step on one folder, in an empty database."""
    files = sorted((folder / "embeddings").glob("*.h5"))
    figures: dict[str, float] = {}
    arguments = ("import-embeddings", "-e", ENCODER, *files)
    with psycopg.connect(dsn, autocommit=True) as connection:
        figures["ingest_seconds"], figures["ingest_peak_mb"], rows = timed(
            dsn, "ingest", "paper-csv", folder / "datasets"
        )
        number = figures["rows"] = rows[-1]["added"]
        connection.execute("CHECKPOINT")
        figures["import_seconds"], figures["import_peak_mb"], rows = timed(dsn, *arguments)
        if rows[0]["added"] != number:
            raise SystemExit(f"{rows[0]['added']} of {number} vectors were loaded")
        figures["repeat_seconds"], _, _ = timed(dsn, *arguments)
        if everything:
            connection.execute("TRUNCATE cbir.embedding_published")
            figures["rows_when_killed"] = kill_half_way(command(dsn, *arguments), connection, number)
            figures["resume_seconds"], _, _ = timed(dsn, *arguments)
            figures["rows_after_resume"] = count(connection)
        connection.execute("TRUNCATE cbir.embedding_published")
        figures["read_seconds"] = read_alone(files, dim)
        connection.execute("CHECKPOINT")
        figures["copy_seconds"] = bare_copy(connection, "embedding_published", finished_rows(connection, files, dim))
        if everything:
            connection.execute("CREATE TABLE cbir.benchmark_bare (LIKE cbir.embedding_published INCLUDING STORAGE)")
            connection.execute("TRUNCATE cbir.embedding_published")
            connection.execute("CHECKPOINT")
            figures["unconstrained_copy_seconds"] = bare_copy(
                connection, "benchmark_bare", finished_rows(connection, files, dim)
            )
            connection.execute("DROP TABLE cbir.benchmark_bare")
    return figures


def fresh_database(server: str) -> str:
    """Create a database with an up-to-date schema; return its DSN."""
    name = f"benchmark_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    dsn = make_conninfo(server, dbname=name)
    subprocess.run(command(dsn, "db", "upgrade"), check=True, capture_output=True)
    return dsn


def drop_database(server: str, dsn: str) -> None:
    """Drop the database of ``fresh_database``."""
    name = re.search(r"dbname=(\S+)", dsn)[1]
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def main() -> None:
    """Generate, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="folder of the files; kept")
    parser.add_argument(
        "--once",
        action="store_true",
        help="omit the killed import and the table without constraints",
    )
    add_server_options(parser)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    with open_database(server_settings(arguments)) as connection:
        server = make_conninfo(connection.info.dsn, password=connection.info.password or None)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)) / f"{arguments.rows}x{arguments.dim}-{arguments.seed}"
        if not (folder / "complete").exists():
            write_files(folder, arguments.rows, arguments.dim, arguments.seed)
            (folder / "complete").touch()
        dsn = fresh_database(server)
        try:
            figures = measure(dsn, folder, arguments.dim, everything=not arguments.once)
        finally:
            drop_database(server, dsn)
    report(arguments, figures)


def report(arguments: argparse.Namespace, figures: dict[str, float]) -> None:
    """Print the ratios first."""
    copy = figures["copy_seconds"]
    print(f"{figures['rows']:,} images x {arguments.dim}")
    print(f"{'':28}{'ratio to bare COPY':>20}{'seconds':>10}{'rows/s':>10}")
    for title, key in (
        ("bare COPY", "copy_seconds"), ("bare COPY, no constraints", "unconstrained_copy_seconds"),
        ("reading HDF5 alone", "read_seconds"), ("import-embeddings", "import_seconds"),
        ("import-embeddings, repeated", "repeat_seconds"), ("after a kill at half", "resume_seconds"),
        ("ingest paper-csv", "ingest_seconds"),
    ):  # fmt: skip
        seconds = figures.get(key)
        if seconds is None:
            continue
        print(f"{title:28}{copy / seconds:>20.2f}{seconds:>10.1f}{figures['rows'] / seconds:>10,.0f}")
    if "rows_when_killed" in figures:
        print(
            f"killed with {figures['rows_when_killed']:,} vectors loaded; after the next run {figures['rows_after_resume']:,}"
        )
    print(f"peak memory: import {figures['import_peak_mb']:,.0f} MB, ingest {figures['ingest_peak_mb']:,.0f} MB")
    if arguments.json:
        shown = {key: value for key, value in vars(arguments).items() if key not in ("json", "folder", "dsn", "home")}
        arguments.json.write_text(json.dumps({"arguments": shown, "figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
