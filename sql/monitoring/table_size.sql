-- Title: Disk space of each table
-- Description: Lists the tables of schema cbir with their indexes, one per row, largest first. Embedding tables are
--   among them.
CREATE VIEW cbir.table_size WITH (security_invoker = TRUE) AS
SELECT
    c.relname AS table_name,
    coalesce(nullif(s.n_live_tup, 0), greatest(c.reltuples, 0)::bigint) AS rows_estimate,
    pg_table_size(c.oid) AS table_bytes,
    pg_indexes_size(c.oid) AS index_bytes,
    pg_total_relation_size(c.oid) AS total_bytes
FROM pg_catalog.pg_class AS c
LEFT JOIN pg_catalog.pg_stat_all_tables AS s ON c.oid = s.relid
WHERE c.relnamespace = 'cbir'::regnamespace AND c.relkind IN ('r', 'p') AND cbir_internal.sees_all_rows()
ORDER BY total_bytes DESC;

COMMENT ON VIEW cbir.table_size IS
'Lists bytes on disk per table of schema cbir, with its indexes; largest first.';
