-- Title: Evaluations in readable form
-- Description: Lists evaluation runs, one per row, with encoder, parameters, and the basis of their figures.
--   cbir.precision_by_run shows precision. Columns are expressions; cbir.image_overview gives the reason.
CREATE VIEW cbir.run_overview WITH (security_invoker = TRUE) AS
SELECT
    r.run_id,
    r.encoder_id,
    e.name AS encoder,
    r.protocol || '' AS protocol,
    r.split_seed + 0 AS split_seed,
    (r.same_patient::integer + 0)::boolean AS same_patient,
    r.datasets || '{}' AS datasets,
    r.query_split || '' AS query_split,
    r.index_split || '' AS index_split,
    r.k + 0 AS k,
    r.mode || '' AS mode,
    r.ann_recall + 0 AS ann_recall,
    r.ann_recall_at + 0 AS ann_recall_at,
    r.ann_recall_queries + 0 AS ann_recall_queries,
    r.index_audit,
    r.not_final || '' AS not_final,
    r.indexed_images + 0 AS indexed_images,
    r.query_images + 0 AS query_images,
    r.short_queries + 0 AS short_queries,
    r.erased_images + 0 AS erased_images,
    r.erased_neighbours + 0 AS erased_neighbours,
    r.merged_images + 0 AS merged_images,
    r.started_at + interval '0' AS started_at,
    r.finished_at + interval '0' AS finished_at
FROM cbir.search_run AS r
INNER JOIN cbir.encoder AS e ON r.encoder_id = e.encoder_id;

COMMENT ON VIEW cbir.run_overview IS
'Lists evaluation runs, one per row: encoder, protocol, splits, k, mode, recall of the index, the reason if not'
' final.';
