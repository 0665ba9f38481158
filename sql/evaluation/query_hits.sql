-- Title: Relevance of every list of a run
-- Description: Lists the basis of all summaries over queries. For each scored query and each of its labels it shows:
--   hits, as stored; hits_vector, whose n-th component is the number of relevant images among the first n, for n up to
--   the run's k (a shorter list has no more beyond its end), with its squares; the number of relevant indexed images;
--   the columns that queries are grouped by; and the cluster, which is the patient, or, if patients are not known, the
--   query image (then its number is negative). If an image may have several labels, there is a row per label, which
--   counts carriers of that label, and one without label, which counts images that share any. Columns of the image are
--   expressions; cbir.image_overview gives the reason.
-- Note: each part joins run and image before UNION ALL combines both. The planner has no statistics for a union's
--   columns: it would expect a two-hundredth of all lists, and use no parallel workers. The inner query also makes the
--   vector once, however often it is used.
CREATE VIEW cbir.query_hits WITH (security_invoker = TRUE) AS
WITH scored AS (
    SELECT
        r.run_id,
        r.query_image_id,
        r.label_id,
        run.k,
        i.dataset_id + 0 AS dataset_id,
        i.modality || '' AS modality,
        i.anatomic_region || '' AS anatomic_region,
        coalesce(i.patient_id, -i.image_id) AS cluster_id,
        r.relevant_count,
        r.hits,
        cbir_internal.padded(r.hits, run.k)::integer[]::vector AS hits_vector
    FROM cbir.search_run AS run
    INNER JOIN cbir.search_result AS r ON run.run_id = r.run_id
    INNER JOIN cbir.image AS i ON r.query_image_id = i.image_id
    WHERE run.finished_at IS NOT NULL AND r.relevant_count > 0
    UNION ALL
    SELECT
        l.run_id,
        l.query_image_id,
        l.label_id,
        run.k,
        i.dataset_id + 0 AS dataset_id,
        i.modality || '' AS modality,
        i.anatomic_region || '' AS anatomic_region,
        coalesce(i.patient_id, -i.image_id) AS cluster_id,
        l.relevant_count,
        l.hits,
        cbir_internal.padded(l.hits, run.k)::integer[]::vector AS hits_vector
    FROM cbir.search_run AS run
    INNER JOIN cbir.search_result_label AS l ON run.run_id = l.run_id
    INNER JOIN cbir.image AS i ON l.query_image_id = i.image_id
    WHERE run.finished_at IS NOT NULL AND l.relevant_count > 0
)

SELECT
    scored.*,
    scored.hits_vector * scored.hits_vector AS hits_squared
FROM scored;

COMMENT ON VIEW cbir.query_hits IS
'Lists for every scored query of a run and each of its labels the number of relevant images among the first n.';
