-- Title: Evaluations as a person reads them
-- Description: One row per evaluation run with its encoder, what was asked, and what its figures rest on. Precision is
--   in cbir.precision_by_run.
CREATE VIEW cbir.run_overview WITH (security_invoker = TRUE) AS
SELECT
    r.run_id,
    r.encoder_id,
    e.name AS encoder,
    r.protocol,
    r.split_seed,
    r.same_patient,
    r.datasets,
    r.query_split,
    r.index_split,
    r.k,
    r.mode,
    r.ann_recall,
    r.ann_recall_at,
    r.ann_recall_queries,
    r.index_audit,
    r.not_final,
    r.indexed_images,
    r.query_images,
    r.short_queries,
    r.erased_images,
    r.erased_neighbours,
    r.started_at,
    r.finished_at
FROM cbir.search_run AS r
INNER JOIN cbir.encoder AS e ON r.encoder_id = e.encoder_id;

COMMENT ON VIEW cbir.run_overview IS
'One row per evaluation run: encoder, protocol, splits, k, mode, recall of the index, why it is not final.';
