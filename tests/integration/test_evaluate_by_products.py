"""Test that evaluation by matrix products finds the same neighbours as the server's searches, in the same order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray

from cbirdb.db import read_embeddings
from cbirdb.db.copy import copy_embeddings
from cbirdb.db.embeddings import get_encoder, register_encoder
from cbirdb.evaluate import EvaluationSummary, exact_search, find_neighbours
from cbirdb.evaluate import evaluate as evaluate_with
from cbirdb.vectors import bfloat16_kernel, choose_kernel
from cbirdb.vectors.kernels import Floats
from tests.support.evaluations import Cli, assert_same, evaluate, runs


def write_images(
    connection: psycopg.Connection, vectors: NDArray[np.float64], precision: Literal["half", "single"]
) -> None:
    """Store images of some forty patients, a third of them queries, with one label or two."""
    connection.execute("INSERT INTO cbir.dataset (name, reader) VALUES ('one', 'test')")
    connection.execute("INSERT INTO cbir.label (name) SELECT 'L' || n FROM generate_series(0, 8) AS n")
    connection.execute(
        "INSERT INTO cbir.patient (dataset_id, pseudonym) SELECT dataset_id, n::text FROM cbir.dataset, generate_series(0, 39) AS n"
    )
    connection.execute(
        "INSERT INTO cbir.image (dataset_id, source, split, patient_id)"
        " SELECT d.dataset_id, n::text, CASE WHEN n % 3 = 0 THEN 'test' ELSE 'train' END, p.patient_id"
        " FROM cbir.dataset AS d, generate_series(0, 599) AS n"
        " LEFT JOIN cbir.patient AS p ON p.pseudonym = (n % 60)::text ORDER BY n"
    )
    connection.execute(
        "INSERT INTO cbir.image_label (image_id, label_id) SELECT image_id, label_id FROM cbir.image JOIN cbir.label"
        " ON name = 'L' || (source::int / 7 % 9) OR (source::int % 5 = 0 AND name = 'L' || (source::int % 4))"
    )
    ids = [row[0] for row in connection.execute("SELECT image_id FROM cbir.image ORDER BY source::int")]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    stored = register_encoder(connection, "toy", dim=vectors.shape[1], precision=precision, spec={}, provenance={})
    copy_embeddings(connection, stored.table, np.array(ids), unit.astype(np.float32), precision)


@pytest.fixture
def many(connection: psycopg.Connection) -> None:
    """Store six hundred images in clusters, and pairs with the same vector."""
    rng = np.random.default_rng(6)
    vectors = rng.normal(size=(9, 16))[np.arange(600) // 7 % 9] + 0.5 * rng.normal(size=(600, 16))
    vectors[100:140] = vectors[200:240]
    write_images(connection, vectors, "half")


@pytest.fixture
def alike(connection: psycopg.Connection) -> None:
    """Store six hundred images of five pictures: copies, near copies within rounding, and others ever less alike."""
    rng = np.random.default_rng(7)
    pictures = rng.normal(size=(5, 96))[np.arange(600) % 5]
    noise = np.where(np.arange(600) % 4 == 0, 0, 10.0 ** -(np.arange(600) % 8))
    write_images(connection, pictures + noise[:, None] * rng.normal(size=(600, 96)), "single")


OPTIONS = pytest.mark.parametrize(
    "options",
    [(), ("--protocol", "any-label"), ("--exclude-patient",), ("--query-split", "train"), ("-k", 399)],
    ids=lambda options: " ".join(map(str, options)) or "plain",
)


def by_scans_and_products(
    cli: Cli, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, *options: object
) -> Iterator[tuple[list[tuple[object, ...]], list[tuple[object, ...]]]]:
    """Yield, table by table, what an exact run stores by scans and by products."""
    monkeypatch.setattr(exact_search, "MARGIN", 8)
    runs = []
    for scan_up_to in (10**9, 0):
        monkeypatch.setattr(find_neighbours, "SCAN_UP_TO", scan_up_to)
        runs.append(evaluate(cli, "--mode", "exact", *options)["run"])
    for table in ("search_result", "search_result_label"):
        scanned, multiplied = (
            [
                row[1:]
                for row in connection.execute(f"SELECT * FROM cbir.{table} WHERE run_id = %s ORDER BY 2, 3", [run])
            ]
            for run in runs
        )
        yield scanned, multiplied


@pytest.mark.parametrize("memory", [64, 1024])
@OPTIONS
def test_matrix_products_find_the_same_neighbours_as_scans(
    cli: Cli, connection: psycopg.Connection, many: None, monkeypatch: pytest.MonkeyPatch, options: Sequence[object],
    memory: int,
) -> None:  # fmt: skip
    if memory == 64:  # several passes
        monkeypatch.setattr(exact_search, "BYTES_PER_MB", 1000)
    results, labels = by_scans_and_products(cli, connection, monkeypatch, "--memory", memory, *options)
    assert len(results[0]) > 100
    assert_same(results[1], results[0])
    assert_same(labels[1], labels[0])


@OPTIONS
def test_matrix_products_order_copies_and_near_copies_as_the_server_does(
    cli: Cli, connection: psycopg.Connection, alike: None, monkeypatch: pytest.MonkeyPatch, options: Sequence[object]
) -> None:
    monkeypatch.setattr(exact_search, "DEEPER", 2)
    monkeypatch.setattr(exact_search, "QUERIES_PER_BATCH", 50)
    margins = []
    wanted = exact_search.MatrixSearch._wanted

    def noting(self: exact_search.MatrixSearch, margin: int | None) -> int:
        margins.append(margin)
        return wanted(self, margin)

    monkeypatch.setattr(exact_search.MatrixSearch, "_wanted", noting)
    arguments = options or ("-k", 20)
    results, labels = by_scans_and_products(cli, connection, monkeypatch, *arguments)
    assert_same(results[1], results[0])
    assert_same(labels[1], labels[0])
    # Of eighty images of a picture, twenty and a margin of eight do not tell which are the first.
    assert options or 32 in margins
    copies = connection.execute(
        "SELECT count(*) FROM cbir.neighbour WHERE distance = 0 AND run_id = (SELECT max(run_id) FROM cbir.search_run)"
    ).fetchone()
    assert copies is not None
    assert copies[0] > 100, "copies are no longer at the distance 0 that the server says"


@pytest.mark.parametrize("images", ["many", "alike"])
def test_bfloat16_products_find_the_same_neighbours_as_scans(
    cli: Cli,
    connection: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    images: str,
) -> None:
    request.getfixturevalue(images)
    monkeypatch.setattr(choose_kernel, "ROUGH_FROM", 1)
    monkeypatch.setattr(bfloat16_kernel, "PAIR_COST", 0)
    monkeypatch.setattr(choose_kernel, "ROUGH_QUERIES", 100)
    monkeypatch.setattr(choose_kernel, "is_bfloat16_fast", lambda *_: True)
    monkeypatch.setattr(choose_kernel, "machine_cpus", lambda: 2)
    monkeypatch.setattr(read_embeddings, "BLOCK_BYTES", 0)
    monkeypatch.setattr(read_embeddings, "BLOCK_ROWS", 40)
    measured: list[int] = []
    multiply = bfloat16_kernel._multiply_pairs

    def noting(queries: Floats, rows: NDArray[np.int64], vectors: Floats, columns: NDArray[np.int64]) -> Floats:
        measured.append(len(rows))
        return multiply(queries, rows, vectors, columns)

    monkeypatch.setattr(bfloat16_kernel, "_multiply_pairs", noting)
    results, _ = by_scans_and_products(cli, connection, monkeypatch, "-k", 20)
    assert_same(results[1], results[0])
    assert 0 < sum(measured) < 200 * 400, "rough products leave out nothing, or were not asked"


def test_evaluation_fails_when_an_image_is_removed_during_products(
    cli: Cli, connection: psycopg.Connection, many: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find_neighbours, "SCAN_UP_TO", 0)
    compare = exact_search.exact_neighbours

    def changing(*arguments: Any, **options: Any) -> object:
        connection.execute(
            "DELETE FROM cbir.image WHERE image_id = (SELECT min(image_id) FROM cbir.image WHERE split = 'train')"
        )
        return compare(*arguments, **options)

    monkeypatch.setattr(exact_search, "exact_neighbours", changing)
    outcome = cli("evaluate", "-e", "toy", "--mode", "exact")
    assert outcome.code == 1
    assert "changed during the evaluation" in outcome.err
    assert not any(finished for _, finished in runs(connection))


def test_missing_gpu_is_refused_and_leaves_no_run(
    cli: Cli, many: None, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find_neighbours, "SCAN_UP_TO", 0)
    outcome = cli("evaluate", "-e", "toy", "--mode", "exact", "--device", "cuda:7")
    assert outcome.code == 1
    assert "GPU" in outcome.err
    assert runs(connection) == []


@pytest.mark.parametrize("blocks", [0, 1], ids=["before the vectors", "while the server sends them"])
def test_interrupted_products_leave_no_run_and_a_usable_connection(
    connection: psycopg.Connection, many: None, monkeypatch: pytest.MonkeyPatch, blocks: int
) -> None:
    monkeypatch.setattr(find_neighbours, "SCAN_UP_TO", 0)
    monkeypatch.setattr(read_embeddings, "BLOCK_ROWS", 1)
    monkeypatch.setattr(read_embeddings, "BLOCK_BYTES", 1)
    compare = exact_search.exact_neighbours

    def failing(_: object, vectors: Iterator[object], *arguments: object, **options: object) -> object:
        for _ in range(blocks):
            next(vectors)
        raise KeyboardInterrupt

    def run() -> EvaluationSummary:
        encoder = get_encoder(connection, "toy")
        return evaluate_with(connection, encoder, connect=lambda: psycopg.connect(connection.info.dsn, autocommit=True))

    monkeypatch.setattr(exact_search, "exact_neighbours", failing)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert runs(connection) == []
    monkeypatch.setattr(exact_search, "exact_neighbours", compare)
    summary = run()
    assert runs(connection) == [(summary.run_id, True)]


def test_evaluate_inside_a_transaction_is_refused(
    connection: psycopg.Connection, many: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find_neighbours, "SCAN_UP_TO", 0)
    encoder = get_encoder(connection, "toy")
    with connection.transaction(), pytest.raises(ValueError, match="outside a transaction"):
        evaluate_with(connection, encoder, connect=lambda: psycopg.connect(connection.info.dsn, autocommit=True))
    assert runs(connection) == []
