-- Title: Running work
-- Description: Lists sessions at work on schema cbir in this database, longest first: searches, evaluations, loads and
--   index builds (with their progress), what each session waits for, and which sessions block it. It shows what the
--   caller may see of pg_stat_activity: own sessions, or all for a member of pg_read_all_stats.
-- Reference: https://www.postgresql.org/docs/current/monitoring-stats.html
CREATE VIEW cbir.running_work WITH (security_invoker = TRUE) AS
SELECT
    a.pid,
    a.usename AS role_name,
    a.application_name,
    a.client_addr,
    a.state,
    date_trunc('second', clock_timestamp() - a.query_start) AS running_for,
    date_trunc('second', clock_timestamp() - a.xact_start) AS in_transaction_for,
    a.wait_event_type,
    a.wait_event,
    pg_blocking_pids(a.pid) AS blocked_by,
    p.phase AS index_phase,
    round(100.0 * p.tuples_done / nullif(p.tuples_total, 0), 1) AS index_percent,
    left(a.query, 200) AS query
FROM pg_catalog.pg_stat_activity AS a
LEFT JOIN pg_catalog.pg_stat_progress_create_index AS p ON a.pid = p.pid
WHERE
    cbir_internal.sees_all_rows()
    AND a.datname = current_database()
    AND a.pid <> pg_backend_pid()
    AND a.backend_type = 'client backend'
    AND a.state <> 'idle'
    AND (a.application_name = 'cbirdb' OR a.query ~ 'cbir(_internal)?\.')
ORDER BY a.query_start;

COMMENT ON VIEW cbir.running_work IS
'Lists sessions at work on schema cbir, longest first: duration, what they wait for, and the progress of index'
' builds.';
