-- Title: Vector index of each encoder
-- Description: Shows encoders, one per row, with the index in use, its age and size, the duration of its build, the
--   number of rows now and when it was built, and whether searches use it. Without an index its columns are NULL, and
--   searches are exact.
CREATE VIEW cbir.index_state WITH (security_invoker = TRUE) AS
SELECT
    e.name AS encoder,
    b.index_build_id,
    b.index_name,
    b.method,
    b.parameters,
    i.indisvalid AS is_valid,
    b.built_at,
    date_trunc('second', clock_timestamp() - b.built_at) AS age,
    b.build_seconds,
    b.rows_indexed,
    -- A crash loses the live counts, but not the estimate of the last ANALYZE.
    coalesce(nullif(t.n_live_tup, 0), greatest(c.reltuples, 0)::bigint) AS rows_now,
    b.index_bytes AS bytes_when_built,
    pg_relation_size(i.indexrelid) AS bytes_now,
    s.idx_scan AS scans,
    s.last_idx_scan AS last_scan_at
FROM cbir.encoder AS e
LEFT JOIN cbir.index_build AS b ON e.encoder_id = b.encoder_id AND b.dropped_at IS NULL
LEFT JOIN pg_catalog.pg_index AS i ON i.indexrelid = to_regclass('cbir.' || quote_ident(b.index_name))
LEFT JOIN pg_catalog.pg_stat_all_indexes AS s ON i.indexrelid = s.indexrelid
LEFT JOIN pg_catalog.pg_class AS c ON c.oid = to_regclass('cbir.' || quote_ident(e.table_name))
LEFT JOIN pg_catalog.pg_stat_all_tables AS t ON c.oid = t.relid
WHERE cbir_internal.sees_all_rows();

COMMENT ON VIEW cbir.index_state IS
'Shows the vector index of each encoder: age, size, build time, rows now and when built, and number of scans.';
