"""Reproduce the authors' P@N for N = 1..99 through the command line, with exact search in single precision."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray

from tests.conftest import Outcome, write_csv

Cli = Callable[..., Outcome]
FIGURES = ("micro_precision", "micro_std", "macro_precision", "macro_std")


def run(cli: Cli, csvs: Path, embeddings: list[Path]) -> list[list[float]]:
    """Ingest, import and evaluate; return the four figures for N = 1..99."""
    assert cli("-q", "ingest", "paper-csv", csvs).code == 0
    assert cli("-q", "import-embeddings", "-e", "paper", "--precision", "single", *embeddings).code == 0
    outcome = cli("-q", "evaluate", "-e", "paper", "--mode", "exact", "-k", 100)
    assert outcome.code == 0, outcome.err
    rows = cli("metrics", "-e", "paper", "-n", "1-99", "--format", "json").rows
    assert [row["n"] for row in rows] == list(range(1, 100))
    assert {row["ann_recall"] for row in rows} == {1.0}
    return [[row[name] for name in FIGURES] for row in rows]


@pytest.mark.reference
def test_reference_run_reproduces_the_authors_own_figures(
    cli: Cli, connection: psycopg.Connection, shared_data: Path
) -> None:
    folder = shared_data / "reference_run"
    if not folder.is_dir():
        pytest.skip("there is no reference run beside this checkout")
    found = run(cli, folder, sorted((folder / "embeddings").glob("*.h5")))
    with (folder / "expected_precision_at_n.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = ("micro_precision_mean", "micro_precision_std", "macro_precision_mean", "macro_precision_std")
    expected = [[float(row[name]) for name in names] for row in rows]
    assert np.array(expected).shape == (99, 4)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)

    # The authors' lists hold the queries of val, too.
    assert cli("-q", "evaluate", "-e", "paper", "--mode", "exact", "-k", 100, "--query-split", "val").code == 0
    neighbours: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for query, source, distance in connection.execute(
        "SELECT q.source, i.source, n.distance FROM cbir.neighbour AS n"
        " JOIN cbir.image AS q ON q.image_id = n.query_image_id JOIN cbir.image AS i ON i.image_id = n.image_id"
        " ORDER BY q.image_id, n.rank"
    ):
        neighbours[query].append((source, distance))
    with (folder / "expected_top10.csv").open(newline="") as file:
        lists = {row["query"]: [row[str(rank)] for rank in range(1, 11)] for row in csv.DictReader(file)}
    assert set(lists) == set(neighbours)
    for query, wanted in lists.items():
        distances = dict(neighbours[query])
        for (source, distance), name in zip(neighbours[query], wanted, strict=False):
            assert source == name or abs(distances[name] - distance) < 1e-6, (query, source, name)


LABELS = {
    "alpha": [f"XR/chest/finding_{n:02}" for n in range(5)],
    "beta": [f"XR/chest/finding_{n:02}" for n in range(3, 6)] + ["XR/hand/normal"],
    "gamma": [f"CT/abd/finding_{n:02}" for n in range(6, 10)] + ["US/liver/normal"],
}
"""Columns of each file; two datasets share two of the twelve labels."""

Row = dict[str, object]


def generate() -> tuple[dict[str, list[Row]], dict[str, NDArray[np.float32]]]:
    """Make three datasets of 100 images with unit vectors and a long tail of labels; some images have two or none."""
    rng = np.random.default_rng(20240311)
    directions = {name: rng.normal(size=32) for names in LABELS.values() for name in names}
    tables: dict[str, list[Row]] = {}
    vectors: dict[str, NDArray[np.float32]] = {}
    for dataset, names in LABELS.items():
        weights = 1 / np.arange(1, len(names) + 1) ** 1.5
        tables[dataset] = []
        for number in range(100):
            chosen = rng.choice(
                len(names), size=rng.choice([0, 1, 2], p=[0.05, 0.85, 0.1]), replace=False, p=weights / weights.sum()
            )
            positive = {names[n] for n in chosen}
            path = f"{dataset}/images_{number % 4:03}/{number:08}.png"
            split = str(rng.choice(["train", "val", "test"], p=[0.7, 0.1, 0.2]))
            if names[-1] in positive and dataset == "beta":
                split = "test"  # a class that no indexed image carries
            tables[dataset].append(
                {
                    "filepath": path, "dataset": dataset, "split": split, "modality": names[0].split("/")[0],
                    "anatomic_region": names[0].split("/")[1],
                }
                | {name: float(name in positive) for name in names}
            )  # fmt: skip
            wanted = sum((directions[name] for name in positive), np.zeros(32)) + 1.6 * rng.normal(size=32)
            # Binary floats hold lengths and dot products of such vectors exactly, so ties are ties everywhere.
            vectors[path] = np.zeros(32, np.float32)
            largest = np.argsort(-np.abs(wanted))[:16]
            vectors[path][largest] = 0.25 * np.sign(wanted[largest])
    return tables, vectors


def expected_figures(tables: dict[str, list[Row]], vectors: dict[str, NDArray[np.float32]]) -> NDArray[np.float64]:
    """Compute the authors' protocol in float64 NumPy; equal distances keep the order of the files."""
    labels: dict[str, dict[str, str]] = {"train": {}, "test": {}, "val": {}}
    for dataset, rows in tables.items():
        for row in rows:
            positive = [name for name in LABELS[dataset] if row[name]]
            if len(positive) == 1:
                labels[str(row["split"])][str(row["filepath"])] = positive[0]
    index = list(labels["train"])
    matrix = np.stack([vectors[path] for path in index]).astype(np.float64)
    classes = np.array([labels["train"][path] for path in index])
    by_class: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
    for path, label in labels["test"].items():
        distance = 1 - matrix @ vectors[path].astype(np.float64)
        relevant = classes[np.argsort(distance, kind="stable")] == label
        if relevant.any():
            n = np.minimum(np.arange(1, 100), relevant.sum())
            by_class[label].append(np.cumsum(relevant)[n - 1] / n)
    queries = np.concatenate([np.stack(rows) for rows in by_class.values()])
    means = np.stack([np.mean(rows, axis=0) for rows in by_class.values()])
    spreads = np.stack([np.std(rows, axis=0, ddof=1) for rows in by_class.values() if len(rows) > 1])
    figures = [queries.mean(0), queries.std(0, ddof=1), means.mean(0), spreads.mean(0)]
    return np.stack(figures, axis=1)


def test_generated_case_equals_the_authors_protocol_in_numpy(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    tables, vectors = generate()
    (tmp_path / "datasets").mkdir()
    for dataset, rows in tables.items():
        write_csv(tmp_path / "datasets" / f"{dataset}.csv", rows)
        with h5py.File(tmp_path / f"{dataset}.h5", "w") as file:
            for row in rows:
                file.create_dataset(str(row["filepath"]), data=vectors[str(row["filepath"])])
    expected = expected_figures(tables, vectors)
    found = run(cli, tmp_path, sorted(tmp_path.glob("*.h5")))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    # The case is of use: it has a class without indexed images and at least eight classes.
    row = connection.execute(
        "SELECT count(*) FILTER (WHERE relevant_count = 0), count(DISTINCT label_id) FROM cbir.search_result"
    ).fetchone()
    assert row is not None
    assert row[0] > 0
    assert row[1] >= 8
    assert 0.2 < expected[0, 0] < 0.95
