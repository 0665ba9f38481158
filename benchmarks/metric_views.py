"""Measures how fast the metrics of a large run answer, and the size of its stored neighbours in this and other forms.

    python benchmarks/metric_views.py --queries 150000 --indexed 200000 --json benchmarks/metric_views.json

Uses a database of its own: a catalogue with 180 classes of a long tail, 4 modalities, 12 regions and patients of five
images, and a finished run with random neighbours. A neighbour is of the query's class with a probability that depends on
the class and falls with the rank, else of any class. Nothing is encoded or searched. Then it times everything that
``cbirdb metrics`` queries, in the same way and for every N at once: first after a restart of the server, whose cache is
then empty (the operating system's is not; with --dsn there is no restart, and both are warm), then three times more.

The forms hold the same neighbours: the stored arrays; arrays with ids of four bytes; one row per neighbour. Beside their
size, a metric's read is timed: the relevance of all neighbours of the run, by rank.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from published_embeddings import drop_database, fresh_database
from server import add_server_options, server_settings

from cbirdb.db.embeddings import register_encoder
from cbirdb.db.schema.open import open_database
from cbirdb.db.server.embedded import EmbeddedServer
from cbirdb.metrics import metrics
from cbirdb.metrics.analyses import analyse
from cbirdb.metrics.confidence import add_intervals
from cbirdb.metrics.precision import GROUPS

ENCODER = "benchmark"
CLASSES = 180
K = 100
CATALOGUE = """
SELECT setseed(0.5);
INSERT INTO cbir.dataset (name, reader) SELECT 'benchmark ' || n, 'test' FROM generate_series(1, 4) AS n;
INSERT INTO cbir.label (name) SELECT 'XR/chest/finding ' || n FROM generate_series(1, {classes}) AS n;
-- A label's share of the images, as a range of positions from 0 to 1. Images are in the order of their labels, so that
-- those of a label have consecutive ids.
CREATE TEMPORARY TABLE share AS
SELECT label_id, sum(weight) OVER (ORDER BY label_id) - weight AS low, sum(weight) OVER (ORDER BY label_id) AS high
FROM (SELECT label_id, weight / sum(weight) OVER () AS weight
      FROM (SELECT label_id, row_number() OVER (ORDER BY label_id) ^ -1.1 AS weight FROM cbir.label) AS w) AS s;
CREATE TEMPORARY TABLE drawn AS
SELECT t.split, s.label_id, t.n, 1 + floor(4 * random())::integer AS dataset, floor(t.images / 5 * random())::integer AS patient
FROM (
    SELECT 'train' AS split, {indexed} AS images, n FROM generate_series(1, {indexed}) AS n
    UNION ALL SELECT 'test', {queries}, n FROM generate_series(1, {queries}) AS n
) AS t INNER JOIN share AS s ON (t.n - 0.5) / t.images >= s.low AND (t.n - 0.5) / t.images < s.high;
INSERT INTO cbir.patient (dataset_id, pseudonym)
SELECT DISTINCT d.dataset_id, r.split || r.patient FROM drawn AS r
INNER JOIN cbir.dataset AS d ON d.name = 'benchmark ' || r.dataset;
INSERT INTO cbir.image (dataset_id, patient_id, source, split, modality, anatomic_region)
SELECT d.dataset_id, p.patient_id, r.split || '/' || r.label_id || '/' || r.n, r.split,
       (ARRAY['XR', 'CT', 'MR', 'US'])[1 + r.label_id %% 4], 'region ' || r.label_id %% 12
FROM drawn AS r
INNER JOIN cbir.dataset AS d ON d.name = 'benchmark ' || r.dataset
INNER JOIN cbir.patient AS p ON p.dataset_id = d.dataset_id AND p.pseudonym = r.split || r.patient
ORDER BY r.split, r.label_id, r.n;
INSERT INTO cbir.image_label (image_id, label_id)
SELECT image_id, split_part(source, '/', 2)::bigint FROM cbir.image;
"""
RUN = """
INSERT INTO cbir.search_run (
    encoder_id, protocol, datasets, query_split, index_split, k, mode, ann_recall, seed, indexed_images, query_images,
    versions, finished_at
)
SELECT %s, 'paper', (SELECT array_agg(name ORDER BY name) FROM cbir.dataset), 'test', 'train', %s, 'exact', 1, 0,
       (SELECT count(*) FROM cbir.image WHERE split = 'train'), (SELECT count(*) FROM cbir.image WHERE split = 'test'),
       '{}', now()
RETURNING run_id
"""
RESULTS = """
INSERT INTO cbir.search_result (run_id, query_image_id, label_id, relevant_count, neighbour_ids, distances, hits)
SELECT %(run)s, q.image_id, q.label_id, own.images, found.ids, found.distances, found.hits
FROM (SELECT i.image_id, l.label_id FROM cbir.image AS i INNER JOIN cbir.image_label AS l USING (image_id)
      WHERE i.split = 'test') AS q
INNER JOIN (
    SELECT l.label_id, min(i.image_id) AS first, count(*) AS images
    FROM cbir.image AS i INNER JOIN cbir.image_label AS l USING (image_id) WHERE i.split = 'train' GROUP BY l.label_id
) AS own ON own.label_id = q.label_id
CROSS JOIN (SELECT min(image_id) AS first, count(*) AS images FROM cbir.image WHERE split = 'train') AS every
CROSS JOIN LATERAL (
    SELECT array_agg(image_id ORDER BY rank) AS ids, array_agg((0.1 + rank / 1000.0)::real ORDER BY rank) AS distances,
           array_agg(hits ORDER BY rank) AS hits
    FROM (
        SELECT rank, image_id, (count(*) FILTER (
                   WHERE image_id BETWEEN own.first AND own.first + own.images - 1) OVER (ORDER BY rank))::smallint AS hits
        FROM (
            SELECT rank, CASE WHEN random() < 0.3 + 0.6 / (1 + q.label_id %% 7) - rank / 500.0
                              THEN own.first + floor(random() * own.images)::bigint
                              ELSE every.first + floor(random() * every.images)::bigint END AS image_id
            FROM generate_series(1, %(k)s) AS rank
        ) AS neighbour
    ) AS ranked
) AS found
"""
FORMS = {
    "arrays, as stored": None,
    "arrays, ids of 4 bytes": (
        "SELECT run_id, query_image_id, label_id, relevant_count, neighbour_ids::integer[] AS neighbour_ids, distances, hits"
        " FROM cbir.search_result"
    ),
    "a row per neighbour": (
        "SELECT r.run_id, r.query_image_id, n.rank::smallint AS rank, n.image_id, r.distances[n.rank] AS distance,"
        " r.hits[n.rank] > coalesce(r.hits[n.rank - 1], 0) AS relevant"
        " FROM cbir.search_result AS r CROSS JOIN LATERAL unnest(r.neighbour_ids) WITH ORDINALITY AS n (image_id, rank)"
    ),
}
"""Name of a form, and the rows of the same neighbours in it; None: the table itself."""
READ_ARRAYS = "SELECT sum(r.hits[100]), sum(r.hits[10]), sum(r.hits[1]) FROM {} AS r"
READ_ROWS = "SELECT rank, count(*) FILTER (WHERE relevant) FROM {} GROUP BY rank"


def prepare(connection: psycopg.Connection, queries: int, indexed: int) -> int:
    """Create catalogue and run; return the run's id."""
    connection.execute(CATALOGUE.format(classes=CLASSES, queries=queries, indexed=indexed).replace("%%", "%").encode())
    stored = register_encoder(connection, ENCODER, dim=1, precision="single", spec={}, provenance={})
    run = connection.execute(RUN, [stored.encoder_id, K]).fetchone()[0]
    connection.execute(RESULTS, {"run": run, "k": K})
    connection.execute("VACUUM ANALYZE")
    return run


def metric_questions(connection: psycopg.Connection, run: int) -> dict[str, Callable[[], object]]:
    """Return the queries of ``cbirdb metrics`` by name, as functions without arguments."""
    every_n = range(1, K + 1)
    questions: dict[str, Callable[[], object]] = {
        f"metrics --by {by} -n 1-{K}": (lambda by=by: metrics(connection, by=by, cutoffs=every_n, run=run))
        for by in GROUPS
    }
    questions["metrics"] = lambda: metrics(connection, run=run)
    questions["metrics --by class"] = lambda: metrics(connection, by="class", run=run)
    questions["metrics --by anatomy"] = lambda: analyse(
        connection, "anatomy", cutoffs=(1, 3, 5, 10), encoder=None, run=run
    )
    questions[f"metrics --by anatomy -n 1-{K}"] = lambda: analyse(
        connection, "anatomy", cutoffs=every_n, encoder=None, run=run
    )
    questions["metrics --confidence --resamples 100"] = lambda: add_intervals(
        connection, metrics(connection, run=run), by="run", resamples=100
    )
    return questions


def seconds(work: Callable[[], object]) -> float:
    """Return the seconds of a call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def time_metrics(dsn: str, run: int, home: Path | None) -> dict[str, dict[str, float]]:
    """Return the seconds of every query, cold and warm."""
    figures = {}
    with psycopg.connect(dsn, autocommit=True) as connection:
        names = list(metric_questions(connection, run))
    for name in names:
        if home is not None:
            server = EmbeddedServer(home)
            server.stop()
            server.start()
        with psycopg.connect(dsn, autocommit=True) as connection:
            question = metric_questions(connection, run)[name]
            cold = seconds(question)
            figures[name] = {"cold": cold, "warm": statistics.median(seconds(question) for _ in range(3))}
    return figures


def measure_forms(connection: psycopg.Connection) -> dict[str, dict[str, float]]:
    """Return the bytes per query of each form, with its index, and the seconds to read the relevance of all
    neighbours.
    """
    (queries,) = connection.execute("SELECT count(*) FROM cbir.search_result").fetchone()
    figures = {}
    for name, rows in FORMS.items():
        table = sql.Identifier("cbir", "search_result" if rows is None else "benchmark_form")
        if rows is not None:
            connection.execute(sql.SQL("CREATE TABLE {} AS ").format(table) + sql.SQL(rows))
            keys = "run_id, query_image_id, rank" if "rank" in rows.split(" FROM ")[0] else "run_id, query_image_id"
            connection.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(table, sql.SQL(keys)))
            connection.execute(sql.SQL("VACUUM ANALYZE {}").format(table))
        (size,) = connection.execute(
            "SELECT pg_table_size(%(t)s::regclass) + (SELECT pg_relation_size(indexrelid) FROM pg_index"
            " WHERE indrelid = %(t)s::regclass AND indisprimary)",
            {"t": table.as_string(connection)},
        ).fetchone()
        read = sql.SQL(READ_ROWS if name == "a row per neighbour" else READ_ARRAYS).format(table)
        reading = statistics.median(seconds(lambda read=read: connection.execute(read).fetchall()) for _ in range(3))
        figures[name] = {"bytes_per_query": size / queries, "read_seconds": reading}
        if rows is not None:
            connection.execute(sql.SQL("DROP TABLE {}").format(table))
    return figures


def main() -> None:
    """Generate, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=150_000)
    parser.add_argument("--indexed", type=int, default=200_000)
    add_server_options(parser)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    settings = server_settings(arguments)
    with open_database(settings) as connection:
        server = make_conninfo(connection.info.dsn, password=connection.info.password or None)
    dsn = fresh_database(server)
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            run = prepare(connection, arguments.queries, arguments.indexed)
            forms = measure_forms(connection)
        timed = time_metrics(dsn, run, settings.home_folder if settings.embedded else None)
    finally:
        drop_database(server, dsn)
    report(arguments, timed, forms)


def report(arguments: argparse.Namespace, timed: dict, forms: dict) -> None:
    """Print the slowest first."""
    slowest = max(max(figures.values()) for figures in timed.values())
    print(f"{arguments.queries:,} queries, k = {K}: the slowest took {slowest:.2f} s")
    for name, figures in sorted(timed.items(), key=lambda item: -item[1]["warm"]):
        print(f"{name:44}{figures['cold']:>8.2f} s after a restart{figures['warm']:>8.2f} s warm")
    smallest = forms["arrays, as stored"]
    for name, figures in forms.items():
        print(
            f"{name:26}{figures['bytes_per_query'] / smallest['bytes_per_query']:>6.2f} of the size"
            f"{figures['bytes_per_query']:>8,.0f} bytes per query{figures['read_seconds']:>8.2f} s to read relevance"
        )
    if arguments.json:
        shown = {key: value for key, value in vars(arguments).items() if key in ("queries", "indexed")}
        arguments.json.write_text(json.dumps({"arguments": shown, "seconds": timed, "forms": forms}, indent=1) + "\n")


if __name__ == "__main__":
    main()
