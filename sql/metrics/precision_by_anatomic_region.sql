-- Title: Precision at N of each anatomic region of the queries
-- Description: Shows cbir.precision_by('anatomic_region') as a view. All views precision_by_* have the same columns.
CREATE VIEW cbir.precision_by_anatomic_region WITH (security_invoker = TRUE) AS
SELECT
    r.run_id,
    p.encoder,
    p.group_name,
    p.n,
    p.micro_precision,
    p.micro_std,
    p.macro_precision,
    p.macro_std,
    p.queries,
    p.classes,
    p.mode,
    p.ann_recall,
    p.not_final
FROM cbir.search_run AS r
CROSS JOIN LATERAL cbir.precision_by('anatomic_region', r.run_id) AS p
WHERE r.finished_at IS NOT NULL;

COMMENT ON VIEW cbir.precision_by_anatomic_region IS
'Shows precision at N, one row per run, anatomic region of the queries and N.';
