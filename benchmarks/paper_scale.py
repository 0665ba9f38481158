"""Measures the paper's size for real: 1.6 million images from an empty database to all metrics, with time, memory and disk.

    python benchmarks/paper_scale.py --home scale --json benchmarks/paper_scale.json
    python benchmarks/paper_scale.py --home scale --rows 100000 --dim 256 --queries 2000
    python benchmarks/paper_scale.py --home scale --latent 0 --json benchmarks/paper_scale_hardest.json

Seeded vectors of a long tail of classes are generated in a stream, never all in memory, and loaded by cbirdb's own binary
COPY. Images of four datasets, each with patient, split and one label, are loaded by COPY. Within a sub-cluster vectors vary
in --latent directions, or in all equally, the hardest case for an index (see clustered.py). The commands themselves do the
rest, as a user would call them. For each step:

    seconds       wall time
    client MB     largest resident memory of the process that ran it
    server MB     largest sum, over all processes of the server, of proportional memory (shared buffers counted once),
                  sampled once a second; JSON also has the anonymous part, the memory of a build or a sort
    database MB   size of the database afterwards
    WAL MB        size of the write-ahead log's folder afterwards

Then it prints projections to nine encoders, and to 16 and 100 million images, with their assumptions.

Figures are written to --json after each step. If a run is cut off, the same command continues after the last finished step.
The database is dropped at the end, unless --keep is given. The server must be on this machine, and the role a superuser or a
member of pg_monitor. Latencies of searches are not comparable while something else runs.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import psycopg
from clustered import CLASSES, clustered_vectors
from paper_scale_projection import project
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from published_embeddings import MODALITIES, PROGRAM, REGIONS, drop_database, fresh_database
from server import add_server_options, server_settings

from cbirdb.db.copy import copy_embeddings
from cbirdb.db.embeddings import get_encoder, register_encoder
from cbirdb.db.schema.open import open_database

ENCODER = "scale"
BATCH = 10_000
DATASETS = ("radimagenet", "nih14", "mimic", "chexpert")
IMAGES_PER_PATIENT = 8
SEARCHES = 500
SHOWN_ROWS = 12
MB = 1 << 20
TABLES = ("dataset", "patient", "label", "image", "image_label")


# -- measuring ---------------------------------------------------------------------------------------------------------


class ServerMemory:
    """Samples the server's processes on a thread; a context manager."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak = {"Pss": 0, "Pss_Anon": 0}
        """Peaks in kB."""
        self._error: Exception | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise SystemExit(
                f"The server's memory cannot be read: {self._error}. Run it as root or as the server's user."
            )

    def _watch(self) -> None:
        try:
            self._sample()
        except (OSError, psycopg.Error) as error:
            self._error = error

    def _sample(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while True:
                pids = [row[0] for row in connection.execute("SELECT pid FROM pg_stat_activity").fetchall()]
                texts = list(self._read(pids))
                for name, before in self.peak.items():
                    found = (re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE) for text in texts)
                    self.peak[name] = max(before, sum(int(match[1]) for match in found if match))
                if self._stop.wait(1):
                    return

    @staticmethod
    def _read(pids: list[int]) -> Iterator[str]:
        for pid in pids:
            try:
                yield Path(f"/proc/{pid}/smaps_rollup").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended after it was listed


def run_command(dsn: str, *arguments: object) -> dict[str, Any]:
    """Run a cbirdb command; return its exit code (0, or 4: finished but below a floor), rows and peak memory."""
    call = [sys.executable, "-c", PROGRAM, "--dsn", dsn, *map(str, arguments), "--format", "json"]
    done = subprocess.run(call, check=False, capture_output=True, text=True)
    if done.returncode not in (0, 4):
        raise SystemExit(f"{arguments} ended with {done.returncode}: {done.stderr}")
    *notes, peak = done.stderr.splitlines()
    rows = json.loads(done.stdout)
    return {
        "exit_code": done.returncode,
        "client_mb": int(peak) / 1024,
        "row_count": len(rows),
        "rows": rows[:SHOWN_ROWS],
        "said": [line for line in notes if line.strip()][-20:],
    }


@contextmanager
def own_peak(figures: dict[str, Any]) -> Iterator[None]:
    """Record the largest resident memory of this process during the block."""
    Path("/proc/self/clear_refs").write_text("5")  # reset the earlier peak
    yield
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    figures["client_mb"] = int(found[1]) / 1024 if found else None


def disk(connection: psycopg.Connection) -> dict[str, float]:
    """Return the megabytes of the database and of the write-ahead log."""
    database, wal = connection.execute(
        "SELECT pg_database_size(current_database()), (SELECT sum(size) FROM pg_ls_waldir())"
    ).fetchone()
    return {"database_mb": int(database) / MB, "wal_mb": int(wal) / MB}


# -- steps -------------------------------------------------------------------------------------------------------------


def stream(arguments: argparse.Namespace) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield batches of (classes, vectors), always the same."""
    return clustered_vectors(arguments.rows, arguments.dim, seed=arguments.seed, batch=BATCH, latent=arguments.latent)


def make_catalogue(arguments: argparse.Namespace, connection: psycopg.Connection) -> dict[str, Any]:
    """Create images with ids from 1 in the order of the stream; draw a fixed number of test images, and a tenth of that
    as val.

    ``generate_seconds`` is the time to generate the vectors, of which only the classes are used; ``copy_seconds`` is
    the rest.
    """
    figures: dict[str, Any] = {}
    with own_peak(figures):
        began = time.perf_counter()
        classes = np.concatenate([batch.astype(np.int16) for batch, _ in stream(arguments)])
        figures["generate_seconds"] = time.perf_counter() - began
        drawn = np.random.default_rng(arguments.seed).permutation(arguments.rows)
        splits = np.full(arguments.rows, "train", dtype="<U5")
        splits[drawn[: arguments.queries]] = "test"
        splits[drawn[arguments.queries : arguments.queries * 11 // 10]] = "val"
        began = time.perf_counter()
        with connection.transaction():
            write_catalogue(connection, classes, splits)
        for table in TABLES:
            connection.execute(f"ANALYZE cbir.{table}")
        figures["copy_seconds"] = time.perf_counter() - began
    return figures


def write_catalogue(connection: psycopg.Connection, classes: np.ndarray, splits: np.ndarray) -> None:
    """Write all rows by COPY, after removing the rows of an earlier attempt."""
    connection.execute("TRUNCATE cbir.dataset, cbir.label CASCADE")

    def label(number: int) -> tuple[str, str, str]:
        modality = "XR" if number % 4 else MODALITIES[number // 4 % 3]
        return modality, REGIONS[number % 11], f"finding_{number}"

    labels = [label(number) for number in range(CLASSES)]
    patients = len(classes) // IMAGES_PER_PATIENT + 1
    ids = range(1, len(classes) + 1)
    images = (
        (n, c % 4 + 1, (n - 1) // IMAGES_PER_PATIENT + 1, f"{c}/{n:09}.png", s, *labels[c][:2])
        for n, c, s in zip(ids, classes.tolist(), splits.tolist(), strict=True)
    )
    for columns, rows in (
        ("dataset (dataset_id, name, reader)", ((n, name, "benchmark") for n, name in enumerate(DATASETS, start=1))),
        ("label (label_id, name)", ((n, "/".join(parts)) for n, parts in enumerate(labels, start=1))),
        ("patient (patient_id, dataset_id, pseudonym)", ((n, 1, f"{n:032x}") for n in range(1, patients + 1))),
        ("image (image_id, dataset_id, patient_id, source, split, modality, anatomic_region)", images),
        ("image_label (image_id, label_id)", zip(ids, (classes.astype(int) + 1).tolist(), strict=True)),
    ):  # fmt: skip
        with connection.cursor() as cursor, cursor.copy(f"COPY cbir.{columns} FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)


def load(arguments: argparse.Namespace, connection: psycopg.Connection) -> dict[str, Any]:
    """Generate and load; ``copy_seconds`` is the loading alone."""
    encoder = register_encoder(connection, ENCODER, dim=arguments.dim, precision="half", spec={}, provenance={})
    connection.execute(f"TRUNCATE cbir.{encoder.table}")
    figures: dict[str, Any] = {"copy_seconds": 0.0}
    with own_peak(figures):
        start = 1
        for _, vectors in stream(arguments):
            began = time.perf_counter()
            ids = np.arange(start, start + len(vectors), dtype=np.int64)
            copy_embeddings(connection, encoder.table, ids, vectors, encoder.precision)
            figures["copy_seconds"] += time.perf_counter() - began
            start += len(vectors)
    return figures


def search(arguments: argparse.Namespace, connection: psycopg.Connection) -> dict[str, Any]:
    """Time single searches for ten, one after the other, of test images, like a clinician's application."""
    ids = [
        row[0]
        for row in connection.execute(
            "SELECT image_id FROM cbir.image WHERE split = 'test' ORDER BY hashint8extended(image_id, %s) LIMIT %s",
            [arguments.seed, SEARCHES],
        ).fetchall()
    ]
    figures: dict[str, Any] = {}
    with own_peak(figures):
        times = []
        for image_id in ids:
            began = time.perf_counter()
            rows = connection.execute(
                "SELECT * FROM cbir.similar_images(%s, image_id => %s, k => 10)", [ENCODER, image_id]
            ).fetchall()
            times.append(1000 * (time.perf_counter() - began))
            if len(rows) != 10:
                raise SystemExit(f"a search returned {len(rows)} rows")
    for share in (50, 95, 99):
        figures[f"p{share}_ms"] = float(np.percentile(times, share))
    return figures


Step = Callable[[argparse.Namespace, psycopg.Connection], dict[str, Any]]
OWN: dict[str, Step] = {"catalogue": make_catalogue, "load": load}


def commands(arguments: argparse.Namespace) -> dict[str, tuple[object, ...]]:
    """Return all commands of a user, in this order."""
    approximate = ("evaluate", "-e", ENCODER, "-k", arguments.k, "--mode", "approximate")
    metrics = ("metrics", "-e", ENCODER)
    return {
        "index build": ("index", "build", "-e", ENCODER, "--method", "auto"),
        "index audit": ("index", "audit", "-e", ENCODER),
        "evaluate val": ("evaluate", "-e", ENCODER, "-k", arguments.k, "--mode", "exact", "--query-split", "val"),
        # Before the other one, since metrics read the latest run. Its name excludes it from the projections, which
        # count one of the two.
        "exact evaluation": ("evaluate", "-e", ENCODER, "-k", arguments.k, "--mode", "exact"),
        "evaluate": approximate,
        "metrics": metrics,
        **{
            f"metrics by {by}": (*metrics, "--by", by)
            for by in ("class", "dataset", "modality", "anatomic-region", "index-size", "anatomy")
        },
        "metrics with intervals": (*metrics, "--confidence"),
        "leakage": ("leakage", "-e", ENCODER),
        "classify": ("classify", "-e", ENCODER),
    }


def all_steps(arguments: argparse.Namespace, dsn: str) -> dict[str, Step]:
    """Return the steps by name."""

    def command(call: tuple[object, ...]) -> Step:
        return lambda _arguments, _connection: run_command(dsn, *call)

    called = {name: command(call) for name, call in commands(arguments).items()}
    return OWN | {"index build": called.pop("index build"), "search": search} | called


# -- the run -----------------------------------------------------------------------------------------------------------


class Record:
    """The figures so far, and their file."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.path: Path | None = arguments.json
        shown = {key: getattr(arguments, key) for key in ("rows", "dim", "latent", "queries", "k", "seed")}
        self.document: dict[str, Any] = {"arguments": shown, "database": None, "steps": {}}
        if self.path is not None and self.path.exists():
            before = json.loads(self.path.read_text())
            if before["arguments"] == shown and before["database"] is not None:
                self.document = before

    def write(self) -> None:
        if self.path is not None:
            self.path.write_text(json.dumps(self.document, indent=1, default=str) + "\n")


def measure(arguments: argparse.Namespace, dsn: str, record: Record) -> None:
    """Measure every step that is not yet recorded."""
    for name, step in all_steps(arguments, dsn).items():
        if name not in record.document["steps"]:
            with psycopg.connect(dsn, autocommit=True) as connection, ServerMemory(dsn) as memory:
                # Otherwise a cut-off evaluation would be resumed, and only its rest be timed.
                connection.execute("DELETE FROM cbir.search_run WHERE finished_at IS NULL")
                began = time.perf_counter()
                figures = step(arguments, connection)
                seconds = time.perf_counter() - began
                figures |= {"seconds": seconds} | disk(connection)
            figures["server_mb"] = memory.peak["Pss"] / 1024
            figures["server_anonymous_mb"] = memory.peak["Pss_Anon"] / 1024
            record.document["steps"][name] = figures
            record.write()
        report_step(name, record.document["steps"][name])


def sizes(connection: psycopg.Connection) -> dict[str, Any]:
    """Return the bytes of the catalogue, the vectors, their index and results, and the parameters of the index."""
    encoder = get_encoder(connection, ENCODER)

    def total(*tables: str) -> int:
        found = connection.execute(
            "SELECT sum(pg_total_relation_size(format('cbir.%%I', t)::regclass)) FROM unnest(%s::text[]) AS t",
            [list(tables)],
        ).fetchone()
        return int(found[0])

    build = connection.execute(
        "SELECT method, parameters, search_settings, rows_indexed, index_bytes, build_seconds, choice, audit"
        " FROM cbir.index_build WHERE dropped_at IS NULL"
    ).fetchone()
    # The share of the last evaluation in all stored results.
    share = connection.execute(
        "SELECT (count(*) FILTER (WHERE run_id = (SELECT max(run_id) FROM cbir.search_run)))::float / count(*)"
        " FROM cbir.search_result"
    ).fetchone()
    names = ("method", "parameters", "search_settings", "rows", "index_bytes", "build_seconds", "choice", "audit")
    return {
        "catalogue_bytes": total(*TABLES),
        "vectors_bytes": total(encoder.table) - build[4],
        "results_bytes": total("search_result") * share[0],
        "build": dict(zip(names, build, strict=True)),
    }


HEADINGS = ("seconds", "client_mb", "server_mb", "database_mb", "wal_mb")


def report_step(name: str, figures: dict[str, Any]) -> None:
    """Print one line as soon as a step is finished."""
    numbers = "".join(f"{figures[key]:>13,.1f}" for key in HEADINGS)
    code = "  exit code 4" if figures.get("exit_code") == 4 else ""
    print(f"{name:26}{numbers}{code}", flush=True)


def main() -> None:
    """Measure step by step, then project."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_600_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--latent", type=int, default=64, help="directions in which a class varies; 0: all equally")
    parser.add_argument("--queries", type=int, default=20_000)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    add_server_options(parser)
    parser.add_argument("--keep", action="store_true", help="do not drop the database at the end")
    parser.add_argument("--json", type=Path, help="file of the figures, written after each step and read to continue")
    arguments = parser.parse_args()
    with open_database(server_settings(arguments)) as connection:
        server = make_conninfo(connection.info.dsn, password=connection.info.password or None)
    record = Record(arguments)
    if record.document["database"] is None:
        dsn = fresh_database(server)
        record.document["database"] = conninfo_to_dict(dsn)["dbname"]
        record.write()
    else:
        dsn = make_conninfo(server, dbname=record.document["database"])
    print(f"{arguments.rows:,} images x {arguments.dim}, {arguments.queries:,} queries, k = {arguments.k}")
    print(f"{'':26}" + "".join(f"{key.replace('_mb', ' MB').replace('wal', 'WAL'):>13}" for key in HEADINGS))
    measure(arguments, dsn, record)
    with psycopg.connect(dsn, autocommit=True) as connection:
        record.document["sizes"] = sizes(connection)
    record.document["projections"] = project(record.document)
    if not arguments.keep:
        drop_database(server, dsn)
        record.document["database"] = None
    record.write()


if __name__ == "__main__":
    main()
