"""Describes a database without its ids and times, so that two runs of the same steps can be compared."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence

import psycopg
from psycopg import sql

from cbirdb.db.doctor import doctor
from cbirdb.db.index_builds import stray_indexes

State = Mapping[str, Sequence[tuple[object, ...]]]
LEFT_AFTER_S = 30
"""Seconds that sessions of dead clients, and temporary tables of dead sessions, may remain."""

# Pseudonyms are made with a key that each round draws anew: a patient is told by the first of the own images.
_WHAT = {
    "dataset": "SELECT name, reader, root FROM cbir.dataset",
    "image": """
        SELECT d.name, i.source, i.frame, i.split, i.modality, i.anatomic_region, i.view, i.width, i.height,
            i.file_bytes, encode(i.sha256, 'hex'), i.damage, p.sex, s.study_date, s.age_years,
            (SELECT min(o.source) FROM cbir.image AS o WHERE o.patient_id = i.patient_id),
            (SELECT min(o.source) FROM cbir.image AS o WHERE o.study_id = i.study_id)
        FROM cbir.image AS i INNER JOIN cbir.dataset AS d USING (dataset_id)
        LEFT JOIN cbir.patient AS p USING (patient_id) LEFT JOIN cbir.study AS s USING (study_id)""",
    "patients and studies": """
        SELECT (SELECT count(*) FROM cbir.patient), (SELECT count(*) FROM cbir.study),
            (SELECT count(*) FROM cbir.series), (SELECT count(*) FROM cbir.pseudonym_key)""",
    "label": "SELECT name FROM cbir.label",
    "label of an image": """
        SELECT i.source, l.name, il.value FROM cbir.image_label AS il
        INNER JOIN cbir.image AS i USING (image_id) INNER JOIN cbir.label AS l USING (label_id)""",
    "failure": """
        SELECT f.stage, d.name, e.name, f.source, f.line, f.reason, f.detail, f.resolved FROM cbir.failure AS f
        LEFT JOIN cbir.dataset AS d USING (dataset_id) LEFT JOIN cbir.encoder AS e USING (encoder_id)""",
    "encoder": """
        SELECT name, table_name, dim, precision, weights_sha256, preprocessing_sha256, spec::text,
            golden_embedding::text FROM cbir.encoder""",
    "index in use": """
        SELECT e.name, b.rows_indexed, b.audit IS NOT NULL, x.indisvalid AND x.indisready FROM cbir.encoder AS e
        INNER JOIN cbir.index_build AS b ON b.encoder_id = e.encoder_id AND b.dropped_at IS NULL
        LEFT JOIN pg_index AS x ON x.indexrelid = to_regclass('cbir.' || quote_ident(b.index_name))""",
    # DISTINCT: who is killed after its last commit has finished, and does all again. Then both must be the same.
    "run": """
        SELECT DISTINCT e.name, r.protocol, r.datasets::text, r.query_split, r.index_split, r.k, r.mode, r.ann_recall,
            r.indexed_images, r.query_images, r.short_queries, r.not_final, r.finished_at IS NOT NULL
        FROM cbir.search_run AS r INNER JOIN cbir.encoder AS e USING (encoder_id)""",
    "result": """
        SELECT DISTINCT e.name, q.source, l.name, r.relevant_count, r.hits::text, r.distances::text, (
            SELECT md5(string_agg(i.source, ' ' ORDER BY n.rank))
            FROM unnest(r.neighbour_ids) WITH ORDINALITY AS n (image_id, rank)
            INNER JOIN cbir.image AS i ON i.image_id = n.image_id)
        FROM cbir.search_result AS r INNER JOIN cbir.search_run USING (run_id)
        INNER JOIN cbir.encoder AS e USING (encoder_id)
        INNER JOIN cbir.image AS q ON q.image_id = r.query_image_id LEFT JOIN cbir.label AS l USING (label_id)""",
    # Not to the last digits: sums over classes are made in the order of labels' ids, which differ. Hits are compared whole.
    "precision": """
        SELECT DISTINCT r.encoder, s.datasets::text, r.n, round(r.micro_precision::numeric, 9),
            round(r.micro_std::numeric, 9), round(r.macro_precision::numeric, 9), round(r.macro_std::numeric, 9),
            r.queries, r.classes, r.mode, r.ann_recall, r.not_final
        FROM cbir.precision_by_run AS r INNER JOIN cbir.search_run AS s USING (run_id)""",
    "table": "SELECT relname, relkind FROM pg_class WHERE relnamespace = 'cbir'::regnamespace AND relkind IN ('r', 'v')",
}
_EMBEDDINGS = """
    SELECT d.name, i.source, e.embedding::text FROM cbir.{} AS e
    INNER JOIN cbir.image AS i USING (image_id) INNER JOIN cbir.dataset AS d USING (dataset_id)"""
_SEARCHES = """
    SELECT q.source, s.rank, s.dataset, s.source, s.distance
    FROM (SELECT i.source, e.image_id FROM cbir.{} AS e INNER JOIN cbir.image AS i USING (image_id)
        ORDER BY md5(i.source) LIMIT 3) AS q
    CROSS JOIN LATERAL cbir.similar_images(%s, image_id => q.image_id, k => 10, mode => 'exact') AS s"""
_LEFT = {
    "sessions": "SELECT pid FROM pg_stat_activity WHERE application_name = 'cbirdb'",
    "advisory locks": "SELECT classid, objid FROM pg_locks WHERE locktype = 'advisory'",
    "prepared transactions": "SELECT gid FROM pg_prepared_xacts",
    "temporary tables": "SELECT relname FROM pg_class WHERE relpersistence = 't' AND relkind = 'r'",
    "unfinished runs": "SELECT run_id FROM cbir.search_run WHERE finished_at IS NULL",
}


def state(connection: psycopg.Connection) -> State:
    """Everything that a step leaves, with what should not be left, doctor's judgement and exact searches."""
    found = {name: connection.execute(query.encode()).fetchall() for name, query in _WHAT.items()}
    for name, table in connection.execute("SELECT name, table_name FROM cbir.encoder").fetchall():
        embeddings, searches = (sql.SQL(text).format(sql.Identifier(table)) for text in (_EMBEDDINGS, _SEARCHES))
        found[f"embedding of {name}"] = connection.execute(embeddings).fetchall()
        found[f"search with {name}"] = connection.execute(searches, [name]).fetchall()
    found["stray index"] = [(stray.index_name, stray.valid) for stray in stray_indexes(connection)]
    found["doctor"] = [
        (check.check, check.passed, "" if check.passed else check.detail) for check in doctor(connection)
    ]
    return found | _left(connection)


def _left(connection: psycopg.Connection) -> dict[str, list[tuple[object, ...]]]:
    """Return the rest, once the server has had time to notice that its clients are gone."""
    deadline = time.monotonic() + LEFT_AFTER_S
    while True:
        left = {name: connection.execute(query.encode()).fetchall() for name, query in _LEFT.items()}
        if not any(left.values()) or time.monotonic() > deadline:
            return left
        time.sleep(0.2)


def differences(expected: State, found: State) -> list[str]:
    """A sentence for each kind of thing that differs."""
    said = []
    for name in {**expected, **found}:
        before, now = Counter(expected.get(name, ())), Counter(found.get(name, ()))
        gone, new = list((before - now).elements()), list((now - before).elements())
        if gone or new:
            example = "; ".join(str(row)[:200] for row in (*gone[:1], *new[:1]))
            said.append(f"{name}: {len(gone)} rows lost, {len(new)} too many, such as {example}")
    return said
