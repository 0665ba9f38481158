"""Summarises the contents of the database in a few rows."""

from __future__ import annotations

import psycopg

from cbirdb.db.errors import translated_errors

_ROWS = """
SELECT 'dataset', d.dataset,
       format('%s images, %s labels, read by %s', d.images, d.labels, d.reader)
FROM cbir.dataset_status() AS d
UNION ALL
SELECT 'encoder', e.encoder, format('%s embeddings, %s dimensions, %s precision', e.embeddings, e.dim, e.stored_precision)
       || coalesce(', ' || pg_size_pretty(e.table_bytes), '')
FROM cbir.encoder_status() AS e
UNION ALL
SELECT 'index', b.encoder,
       format('build %s, %s, %s rows when built, %s', b.index_build_id, b.method, b.rows_indexed, pg_size_pretty(b.index_bytes))
FROM cbir.index_audit AS b
UNION ALL
SELECT 'run', r.encoder, format('run %s, %s, %s queries, finished %s', r.run_id, r.mode, r.query_images,
       to_char(r.finished_at, 'YYYY-MM-DD HH24:MI'))
FROM cbir.run_overview AS r WHERE r.finished_at IS NOT NULL
UNION ALL
SELECT 'failures', f.stage, format('%s not resolved', sum(f.unresolved))
FROM cbir.failure_by_reason AS f GROUP BY f.stage HAVING sum(f.unresolved) > 0
"""


def database_status(connection: psycopg.Connection) -> list[dict[str, object]]:
    """Return one row per dataset, encoder, index in use, finished run and stage with failures."""
    with translated_errors():
        rows = [{"what": what, "name": name, "detail": detail} for what, name, detail in connection.execute(_ROWS)]
    order = ("dataset", "encoder", "index", "run", "failures")
    return sorted(rows, key=lambda row: (order.index(str(row["what"])), str(row["name"])))
