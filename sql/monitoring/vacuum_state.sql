-- Title: Dead rows and vacuum of the embedding tables
-- Description: Shows encoders, one per row, with their dead rows, the times of the last vacuum and analyze, and the
--   distance of the table from a forced vacuum against transaction ID wraparound. A vector index keeps visiting dead
--   rows until VACUUM removes them.
-- Reference: https://www.postgresql.org/docs/current/routine-vacuuming.html
CREATE VIEW cbir.vacuum_state WITH (security_invoker = TRUE) AS
SELECT
    e.name AS encoder,
    e.table_name,
    s.n_live_tup AS live_rows,
    s.n_dead_tup AS dead_rows,
    round(s.n_dead_tup::numeric / nullif(s.n_live_tup + s.n_dead_tup, 0), 4) AS dead_share,
    s.n_mod_since_analyze AS changed_since_analyze,
    greatest(s.last_vacuum, s.last_autovacuum) AS last_vacuum_at,
    greatest(s.last_analyze, s.last_autoanalyze) AS last_analyze_at,
    age(c.relfrozenxid) AS transactions_since_freeze,
    current_setting('autovacuum_freeze_max_age')::bigint - age(c.relfrozenxid) AS transactions_until_forced_vacuum
FROM cbir.encoder AS e
INNER JOIN pg_catalog.pg_class AS c ON c.oid = to_regclass('cbir.' || quote_ident(e.table_name))
LEFT JOIN pg_catalog.pg_stat_all_tables AS s ON c.oid = s.relid
WHERE cbir_internal.sees_all_rows();

COMMENT ON VIEW cbir.vacuum_state IS
'Shows dead rows of each embedding table and the times of the last vacuum and analyze; dead rows slow a vector index'
' until VACUUM.';
