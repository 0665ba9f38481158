-- Title: Failures by reason
-- Description: Counts files that could not be ingested or encoded, by stage, dataset, encoder and reason. Resolved
--   failures have their own count. cbir.failure names the files.
CREATE VIEW cbir.failure_by_reason WITH (security_invoker = TRUE) AS
SELECT
    f.stage || '' AS stage,
    d.name || '' AS dataset,
    e.name AS encoder,
    f.reason || '' AS reason,
    count(*) FILTER (WHERE NOT f.resolved) AS unresolved,
    count(*) FILTER (WHERE f.resolved) AS resolved,
    sum(f.occurrences) AS occurrences,
    min(f.first_at) AS first_at,
    max(f.last_at) AS last_at
FROM cbir.failure AS f
LEFT JOIN cbir.dataset AS d ON f.dataset_id = d.dataset_id
LEFT JOIN cbir.encoder AS e ON f.encoder_id = e.encoder_id
GROUP BY f.stage || '', d.name || '', e.name, f.reason || '';

COMMENT ON VIEW cbir.failure_by_reason IS
'Counts failures by stage, dataset, encoder and reason: unresolved, resolved, and when they occurred.';
