"""What is in the database, in a few rows."""

from __future__ import annotations

import psycopg
from psycopg import sql

from cbirdb.db.connection import translated_errors
from cbirdb.db.schema import SCHEMA

_ROWS = """
SELECT 'dataset', d.name,
       format('%s images, %s labels, read by %s', count(i.image_id),
              (SELECT count(DISTINCT il.label_id) FROM cbir.image_label AS il JOIN cbir.image AS x USING (image_id)
               WHERE x.dataset_id = d.dataset_id), d.reader)
FROM cbir.dataset AS d LEFT JOIN cbir.image AS i ON i.dataset_id = d.dataset_id GROUP BY d.dataset_id
UNION ALL
SELECT 'index', e.name,
       format('build %s, %s, %s rows when built, %s', b.index_build_id, b.method, b.rows_indexed, pg_size_pretty(b.index_bytes))
FROM cbir.index_build AS b JOIN cbir.encoder AS e USING (encoder_id) WHERE b.dropped_at IS NULL
UNION ALL
SELECT 'run', e.name, format('run %s, %s, %s queries, finished %s', r.run_id, r.mode, r.query_images,
       to_char(r.finished_at, 'YYYY-MM-DD HH24:MI'))
FROM cbir.search_run AS r JOIN cbir.encoder AS e USING (encoder_id) WHERE r.finished_at IS NOT NULL
UNION ALL
SELECT 'failures', stage, format('%s not resolved', count(*)) FROM cbir.failure WHERE NOT resolved GROUP BY stage
"""


def database_status(connection: psycopg.Connection) -> list[dict[str, object]]:
    """One row per dataset, encoder, index in use, finished run and stage with failures."""
    with translated_errors():
        rows = [{"what": what, "name": name, "detail": detail} for what, name, detail in connection.execute(_ROWS)]
        for name, table, dim, precision in connection.execute(
            "SELECT name, table_name, dim, precision FROM cbir.embedded_encoder()"
        ).fetchall():
            query = sql.SQL("SELECT count(*), pg_size_pretty(pg_table_size({literal}::regclass)) FROM {table}").format(
                literal=sql.Literal(f"{SCHEMA}.{table}"), table=sql.Identifier(SCHEMA, table)
            )
            count, size = connection.execute(query).fetchone() or (0, "0")
            detail = f"{count} embeddings, {dim} dimensions, {precision} precision, {size}"
            rows.append({"what": "encoder", "name": name, "detail": detail})
    order = ("dataset", "encoder", "index", "run", "failures")
    return sorted(rows, key=lambda row: (order.index(str(row["what"])), str(row["name"])))
