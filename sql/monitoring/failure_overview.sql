-- Title: Failures in readable form
-- Description: Lists files that could not be ingested or encoded, one row per file and reason, with the number of times
--   and whether the file has succeeded since. Columns are expressions; cbir.image_overview gives the reason.
CREATE VIEW cbir.failure_overview WITH (security_invoker = TRUE) AS
SELECT
    f.failure_id,
    f.stage || '' AS stage,
    d.name || '' AS dataset,
    e.name AS encoder,
    f.source || '' AS source,
    f.line + 0 AS line,
    f.reason || '' AS reason,
    f.detail || '' AS detail,
    f.occurrences + 0 AS occurrences,
    f.first_at + interval '0' AS first_at,
    f.last_at + interval '0' AS last_at,
    (f.resolved::integer + 0)::boolean AS resolved
FROM cbir.failure AS f
LEFT JOIN cbir.dataset AS d ON f.dataset_id = d.dataset_id
LEFT JOIN cbir.encoder AS e ON f.encoder_id = e.encoder_id;

COMMENT ON VIEW cbir.failure_overview IS
'Lists files that could not be ingested or encoded: stage, dataset, encoder, file, reason, occurrences, resolved or'
' not.';
