"""Measures the time of an exact evaluation, beside the paper's code on the same vectors, and compares the figures.

    pip install -e '.[bench]'
    python benchmarks/evaluation.py --indexed 50000 --queries 5000

``paper_way.py`` is the paper's way: HDF5 -> FAISS -> CSV -> pandas, like its authors' code. Ours is the command line, as a
user calls it, on a database with the same vectors: ``evaluate --mode exact``, then ``metrics`` for the same N. Both have
k = 100 and every N from 1 to 99. Both times are of whole programs, from start to end.

Loading the files into the database (``ingest paper-csv``, ``import-embeddings``) is timed, too. It happens once per encoder
and also serves searches, while the paper's code reads its files for every evaluation; a second ratio includes it in ours.
Single precision, in turns; the figures of both are compared for every N. They differ where single precision orders images
within rounding differently.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
from clustered import CLASSES, clustered_vectors
from psycopg.conninfo import make_conninfo
from published_embeddings import command, drop_database, fresh_database
from server import add_server_options, server_settings

from cbirdb.db.schema.open import open_database

ENCODER = "benchmark"
OTHER_LABELS = 0.3
"""Share of the images with another label than their cluster's; without them every neighbour is relevant."""
FIGURES = ("micro_precision", "micro_std", "macro_precision", "macro_std")


def write_files(folder: Path, indexed: int, queries: int, dim: int, seed: int) -> None:
    """Write vectors.h5 and the CSV files of both ways: train and test apart, and together in datasets/."""
    (folder / "datasets").mkdir()
    header = ["filepath", "dataset", "split", "modality", "anatomic_region"]
    header += [f"XR/chest/finding {label}" for label in range(CLASSES)]
    number = 0
    rng = np.random.default_rng(seed)
    with (
        h5py.File(folder / "vectors.h5", "w") as vectors_file,
        (folder / "train.csv").open("w", newline="") as train,
        (folder / "test.csv").open("w", newline="") as test,
        (folder / "datasets" / "all.csv").open("w", newline="") as everything,
    ):
        writers = {"train": csv.writer(train), "test": csv.writer(test), "": csv.writer(everything)}
        for writer in writers.values():
            writer.writerow(header)
        for classes, vectors in clustered_vectors(indexed + queries, dim, seed=seed):
            other = rng.random(len(classes)) < OTHER_LABELS
            labels = np.where(other, rng.permutation(classes), classes)
            for label, vector in zip(labels.tolist(), vectors, strict=True):
                path = f"images/{number // 1000:03}/{number:06}.png"
                split = "train" if number < indexed else "test"
                cells = [0] * CLASSES
                cells[label] = 1
                row = [path, "benchmark", split, "XR", "chest", *cells]
                writers[split].writerow(row)
                writers[""].writerow(row)
                vectors_file.create_dataset(path, data=vector)
                number += 1


def seconds(arguments: list[str]) -> tuple[float, str]:
    """Return the time of a program, and its output."""
    began = time.perf_counter()
    done = subprocess.run(arguments, check=False, capture_output=True, text=True)
    taken = time.perf_counter() - began
    if done.returncode != 0:
        raise SystemExit(f"{arguments} ended with {done.returncode}: {done.stderr}")
    return taken, done.stdout


def paper_way(folder: Path) -> dict[str, float]:
    """Return the seconds of the two programs of the paper's way."""
    program = [sys.executable, str(Path(__file__).with_name("paper_way.py"))]
    return {step: seconds([*program, step, str(folder)])[0] for step in ("retrieve", "score")}


def our_way(dsn: str) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Return the seconds of our two programs, and the figures."""
    evaluating, _ = seconds(command(dsn, "-q", "evaluate", "-e", ENCODER, "--mode", "exact", "-k", 100))
    reading, out = seconds(command(dsn, "-q", "metrics", "-e", ENCODER, "-n", "1-99", "--format", "json"))
    return {"evaluate": evaluating, "metrics": reading}, json.loads(out)


def largest_difference(folder: Path, ours: list[dict[str, float]]) -> float:
    """Return the largest difference over all N and all four figures."""
    with (folder / "precision.csv").open() as lines:
        theirs = list(csv.DictReader(lines))
    return max(
        abs(float(their[figure]) - our[figure]) for their, our in zip(theirs, ours, strict=True) for figure in FIGURES
    )


def main() -> None:
    """Generate, measure in turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--indexed", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=5_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=3)
    add_server_options(parser)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    with open_database(server_settings(arguments)) as connection:
        server = make_conninfo(connection.info.dsn, password=connection.info.password or None)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_files(folder, arguments.indexed, arguments.queries, arguments.dim, arguments.seed)
        dsn = fresh_database(server)
        try:
            loading = {
                "ingest": seconds(command(dsn, "-q", "ingest", "paper-csv", folder / "datasets"))[0],
                "import-embeddings": seconds(
                    command(
                        dsn, "-q", "import-embeddings", "-e", ENCODER, "--precision", "single", folder / "vectors.h5"
                    )
                )[0],
            }
            turns = []
            for _ in range(arguments.repeat):
                theirs = paper_way(folder)
                ours, rows = our_way(dsn)
                turns.append(theirs | ours)
            difference = largest_difference(folder, rows)
        finally:
            drop_database(server, dsn)
    report(arguments, turns, loading, difference)


def report(
    arguments: argparse.Namespace, turns: list[dict[str, float]], loading: dict[str, float], difference: float
) -> None:
    """Print the ratios first."""

    def ratio(extra: float) -> float:
        return statistics.median(
            (turn["retrieve"] + turn["score"]) / (turn["evaluate"] + turn["metrics"] + extra) for turn in turns
        )

    load_seconds = sum(loading.values())
    print(f"the paper's code / evaluate and metrics: {ratio(0):.1f}")
    print(f"the paper's code / ours including the load of the files: {ratio(load_seconds):.1f}")
    print(f"largest difference of a figure: {difference:.1e}")
    print(f"{arguments.indexed:,} indexed, {arguments.queries:,} queries, {arguments.dim} dimensions, k = 100")
    for step in ("retrieve", "score", "evaluate", "metrics"):
        values = [turn[step] for turn in turns]
        print(f"{step:20}{statistics.median(values):>8.2f} s  ({min(values):.2f} to {max(values):.2f})")
    for step, taken in loading.items():
        print(f"{step:20}{taken:>8.2f} s")
    if arguments.json:
        shown = {key: value for key, value in vars(arguments).items() if key not in ("json", "dsn", "home")}
        figures = {"arguments": shown, "turns": turns, "loading": loading, "largest_difference": difference}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
