"""Measures search under filters beside plain pgvector: rows returned, recall and latency.

    python benchmarks/filtered_search.py --rows 200000 --dim 512

Two ways to answer the same query, in turn, query by query:

    cbirdb          cbir_internal.nearest_image with a filter, mode auto
    plain pgvector  the same condition in WHERE, ORDER BY embedding <=> query LIMIT k, at pgvector's default settings

The filters are realistic: a modality that is independent of the images' content, and labels that depend on it entirely (the
clusters of the vectors). A label is searched by queries of its own class, as in a search for similar cases, and by queries of
any class, far from its images. Truth is exact search in SQL; a tie with the last true neighbour counts as found. The result
is the ratio of the 95th percentile to that of the same search without a filter, in the same run.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psycopg
from clustered import clustered_vectors
from pgvector import Vector
from psycopg import sql
from server import add_server_options, server_settings

from cbirdb.db.copy import copy_embeddings
from cbirdb.db.embeddings import StoredEncoder, drop_encoder, find_encoder, register_encoder
from cbirdb.db.schema.open import open_database
from cbirdb.index import audit_index, build_index, choose_method
from cbirdb.index.methods import METHODS
from cbirdb.index.tune import tune_search

NAME = "benchmark-filtered"
MODALITIES = (("MR", 0.1), ("CT", 0.01), ("US", 0.001), ("NM", 0.0001))
DEPTHS = (10, 100)
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Case:
    """One filter, and the class of its queries."""

    name: str
    modality: str | None = None
    label: str | None = None
    own_class: int | None = None
    """Only queries of this class; None: of any."""


@dataclass
class Result:
    """One way's results over all queries of a case."""

    case: str
    share: float
    k: int
    way: str
    wanted: int
    returned: int
    recall: float
    p50_ms: float
    p95_ms: float
    modes: dict[str, int]
    ratio: float = float("nan")
    """Ratio of p95 to that of the same way and k without a filter."""


def label_name(number: int) -> str:
    """Return the label of a cluster."""
    return f"{NAME}/{number}"


def prepare(
    connection: psycopg.Connection, arguments: argparse.Namespace
) -> tuple[StoredEncoder, np.ndarray, np.ndarray]:
    """Create images, labels, embeddings and the index; return the encoder, and queries (n, dim) with their classes."""
    clean_up(connection)
    rows = arguments.rows
    batches = list(clustered_vectors(rows + arguments.queries * 20, arguments.dim, seed=arguments.seed))
    classes = np.concatenate([batch[0] for batch in batches])
    vectors = np.concatenate([batch[1] for batch in batches])
    rng = np.random.default_rng(arguments.seed + 1)
    shares = [share for _, share in MODALITIES]
    drawn = rng.choice(len(shares) + 1, size=rows, p=[*shares, 1 - sum(shares)])
    names = [*(name for name, _ in MODALITIES), "XR"]
    connection.execute("INSERT INTO cbir.dataset (name, reader) VALUES (%s, 'folder')", [NAME])
    row = connection.execute("SELECT dataset_id FROM cbir.dataset WHERE name = %s", [NAME]).fetchone()
    with connection.cursor() as cursor:
        with cursor.copy("COPY cbir.image (dataset_id, source, modality) FROM STDIN") as copy:
            for number, modality in enumerate(drawn):
                copy.write_row((row[0], str(number), names[modality]))
        cursor.executemany(
            "INSERT INTO cbir.label (name) VALUES (%s)", [(label_name(n),) for n in np.unique(classes).tolist()]
        )
    ids = np.array(
        connection.execute(
            "SELECT image_id FROM cbir.image WHERE dataset_id = %s ORDER BY source::int", [row[0]]
        ).fetchall()
    )[:, 0]
    labels = dict(
        connection.execute("SELECT name, label_id FROM cbir.label WHERE starts_with(name, %s)", [NAME]).fetchall()
    )
    with connection.cursor() as cursor, cursor.copy("COPY cbir.image_label (image_id, label_id) FROM STDIN") as copy:
        for image_id, number in zip(ids, classes[:rows], strict=True):
            copy.write_row((int(image_id), labels[label_name(number)]))
    encoder = register_encoder(
        connection, NAME, dim=arguments.dim, precision=arguments.precision, spec={}, provenance={}
    )
    copy_embeddings(connection, encoder.table, ids, vectors[:rows], arguments.precision)
    for table in ("image", "image_label", encoder.table):
        connection.execute(sql.SQL("VACUUM ANALYZE cbir.{}").format(sql.Identifier(table)))
    return encoder, vectors[rows:], classes[rows:]


def build(connection: psycopg.Connection, encoder: StoredEncoder, arguments: argparse.Namespace) -> dict[str, object]:
    """Build the index, tune its search and audit it, as ``cbirdb index build`` with --method auto does."""

    def connect() -> psycopg.Connection:
        return open_database(server_settings(arguments))

    method = METHODS[arguments.method]() if arguments.method != "auto" else choose_method(connection, encoder).method
    built = build_index(connection, encoder, method, connect=connect)
    tune_search(connection, encoder, built, method.for_rows(built.rows_indexed))
    built, measured = audit_index(connection, encoder)
    return built.row() | {"built_at": None} | measured.row()


def clean_up(connection: psycopg.Connection) -> None:
    """Remove everything that this benchmark creates."""
    stored = find_encoder(connection, NAME)
    if stored is not None:
        drop_encoder(connection, stored)
    connection.execute("DELETE FROM cbir.dataset WHERE name = %s", [NAME])
    connection.execute("DELETE FROM cbir.label WHERE starts_with(name, %s)", [NAME])


def cases(connection: psycopg.Connection) -> Iterator[Case]:
    """Yield no filter, four modalities, and the labels nearest to 10, 1 and 0.1 % of the images."""
    yield Case("none")
    for name, _ in MODALITIES:
        yield Case(f"modality {name}", modality=name)
    sizes = connection.execute(
        "SELECT l.name, count(*)::float / (SELECT count(*) FROM cbir.image JOIN cbir.dataset USING (dataset_id) WHERE name = %s)"
        " FROM cbir.image_label JOIN cbir.label AS l USING (label_id) WHERE starts_with(l.name, %s) GROUP BY l.name",
        [NAME, NAME],
    ).fetchall()
    for share in (0.1, 0.01, 0.001):
        label = min(sizes, key=lambda row: abs(np.log(row[1] / share)))[0]
        number = int(label.rpartition("/")[2])
        yield Case(f"label {number}, own class", label=label, own_class=number)
        yield Case(f"label {number}, any class", label=label)


Way = Callable[[str, int], tuple[list[float], str]]
"""Function from a query as text and k to distances, nearest first, and the mode of the answer."""


def with_cbirdb(connection: psycopg.Connection, case: Case, mode: str) -> Way:
    """Return the product's way."""
    statement = (
        "SELECT distance, mode_used FROM cbir_internal.nearest_image(%s, %s::vector, %s,"
        " filter => ROW(NULL, %s, NULL, %s, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::cbir.image_filter, mode => %s) ORDER BY rank"
    )

    def search(query: str, k: int) -> tuple[list[float], str]:
        found = connection.execute(statement, [NAME, query, k, case.modality, case.label, mode]).fetchall()
        return [row[0] for row in found], found[0][1] if found else "none"

    return search


def with_pgvector(connection: psycopg.Connection, case: Case, encoder: StoredEncoder) -> Way:
    """Return the way of an application without the product."""
    kind = "halfvec" if encoder.precision == "half" else "vector"
    condition = "TRUE"
    if case.modality is not None:
        condition = "e.image_id IN (SELECT i.image_id FROM cbir.image AS i WHERE i.modality = %(value)s)"
    elif case.label is not None:
        condition = (
            "e.image_id IN (SELECT il.image_id FROM cbir.image_label AS il JOIN cbir.label AS l USING (label_id)"
            " WHERE l.name = %(value)s AND il.value = 1)"
        )
    statement = (
        f"SELECT e.embedding <=> %(query)s::{kind} FROM cbir.{encoder.table} AS e WHERE {condition}"
        f" ORDER BY e.embedding <=> %(query)s::{kind} LIMIT %(k)s"
    )
    value = case.modality or case.label

    def search(query: str, k: int) -> tuple[list[float], str]:
        found = connection.execute(statement, {"query": query, "k": k, "value": value}).fetchall()
        return [row[0] for row in found], "plain"

    return search


def measure(
    connection: psycopg.Connection, encoder: StoredEncoder, case: Case, queries: list[str], k: int
) -> list[Result]:
    """Measure both ways in turn, after a warm-up query, against the truth."""
    exact = with_cbirdb(connection, case, "exact")
    ways = {"cbirdb": with_cbirdb(connection, case, "auto"), "plain pgvector": with_pgvector(connection, case, encoder)}
    matching = connection.execute(
        "SELECT count(*) FROM cbir_internal.matching_image(ROW(%s, %s, NULL, %s, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::cbir.image_filter)",
        [NAME, case.modality, case.label],
    ).fetchone()[0]
    total = connection.execute(
        "SELECT count(*) FROM cbir_internal.matching_image(ROW(%s, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::cbir.image_filter)",
        [NAME],
    ).fetchone()[0]
    results = {
        way: Result(case.name, matching / total, k, way, len(queries) * min(k, matching), 0, 0.0, 0.0, 0.0, {})
        for way in ways
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    recalls: dict[str, list[float]] = {way: [] for way in ways}
    for way in ways.values():
        way(queries[0], k)
    for query in queries:
        truth, _ = exact(query, k)
        for name, way in ways.items():
            began = time.perf_counter()
            found, mode = way(query, k)
            times[name].append(1000 * (time.perf_counter() - began))
            result = results[name]
            result.returned += len(found)
            result.modes[mode] = result.modes.get(mode, 0) + 1
            if truth:
                recalls[name].append(sum(d <= truth[-1] + TOLERANCE for d in found) / len(truth))
    for name, result in results.items():
        result.recall = float(np.mean(recalls[name])) if recalls[name] else 1.0
        result.p50_ms, result.p95_ms = (float(np.percentile(times[name], p)) for p in (50, 95))
    return list(results.values())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--precision", choices=["half", "single"], default="half")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--method", choices=["auto", *METHODS], default="auto", help="of the index; see cbirdb index build"
    )
    add_server_options(parser)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--keep", action="store_true", help="leave the data there")
    arguments = parser.parse_args()
    results: list[Result] = []
    with open_database(server_settings(arguments)) as connection:
        encoder, vectors, classes = prepare(connection, arguments)
        index = build(connection, encoder, arguments)
        for case in cases(connection):
            chosen = vectors if case.own_class is None else vectors[classes == case.own_class]
            queries = [Vector(vector).to_text() for vector in chosen[: arguments.queries]]
            for k in DEPTHS:
                results += measure(connection, encoder, case, queries, k) if queries else []
        if not arguments.keep:
            clean_up(connection)
    report(arguments, index, results)


def report(arguments: argparse.Namespace, index: dict[str, object], results: list[Result]) -> None:
    """Print the ratios first."""
    unfiltered = {(result.way, result.k): result.p95_ms for result in results if result.case == "none"}
    print(
        f"{arguments.rows:,} rows, {arguments.dim} dimensions, {arguments.precision} precision, {arguments.queries} queries"
    )
    print("index: " + ", ".join(f"{name} {value}" for name, value in index.items() if value is not None))
    print(
        f"{'filter':24}{'share':>9}{'k':>5}  {'way':15}{'p95 ratio':>10}{'rows':>9}{'of':>8}{'recall':>8}{'p50 ms':>9}{'p95 ms':>9}  modes"
    )
    for result in results:
        result.ratio = result.p95_ms / unfiltered[result.way, result.k]
        modes = " ".join(f"{name}:{count}" for name, count in sorted(result.modes.items()))
        print(
            f"{result.case:24}{result.share:>9.3%}{result.k:>5}  {result.way:15}{result.ratio:>10.2f}{result.returned:>9,}"
            f"{result.wanted:>8,}{result.recall:>8.4f}{result.p50_ms:>9.2f}{result.p95_ms:>9.2f}  {modes}"
        )
    if arguments.json:
        figures = {
            "arguments": vars(arguments) | {"json": None, "dsn": None, "home": None},
            "index": index,
            "results": [asdict(result) for result in results],
        }
        arguments.json.write_text(json.dumps(figures, indent=1, default=str))


if __name__ == "__main__":
    main()
