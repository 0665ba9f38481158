-- Title: Relevance of every list of a run
-- Description: What summaries over queries are made of. For each scored query and each of its labels: hits, as stored,
--   and hits_vector, whose n-th component is the number of relevant images among the first n, for n up to the run's k
--   (a shorter list has no more beyond its end), with its squares; the number of relevant indexed images; what queries
--   are grouped by; and the cluster: the patient, or, where patients are not known, the query image (then its number is
--   negative). Where an image may have several labels there is a row per label, which counts carriers of that label,
--   and one without label, which counts images that share any.
--   Columns of the image are expressions, see cbir.image_overview.
-- Note: each part joins run and image before both are put together. The planner knows nothing of a union's columns:
--   it would take all lists for a two-hundredth of them, and go without parallel workers. There the vector is also
--   made once, however often it is used.
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
'For every scored query of a run and each of its labels, the number of relevant images among the first n.';
