-- Title: Relevance of every list of a run, as vectors
-- Description: What sums over queries are made of (cbir.precision_by). For each scored query and each of its labels:
--   hits, whose n-th component is the number of relevant images among the first n, and their squares; "known", how many
--   there are (a list may be shorter than k); "reachable", the number of relevant indexed images, at most k. Where an
--   image may have several labels there is a row per label, which counts carriers of that label, and one without label,
--   which counts images that share any.
CREATE VIEW cbir.query_hits WITH (security_invoker = TRUE) AS
WITH list AS (
    SELECT
        r.run_id,
        r.query_image_id,
        r.label_id,
        r.relevant_count,
        r.hits
    FROM cbir.search_result AS r
    UNION ALL
    SELECT
        l.run_id,
        l.query_image_id,
        l.label_id,
        l.relevant_count,
        l.hits
    FROM cbir.search_result_label AS l
)

SELECT
    list.run_id,
    list.query_image_id,
    list.label_id,
    run.k,
    least(list.relevant_count, run.k) AS reachable,
    greatest(cardinality(list.hits), 1) AS known,
    converted.hits,
    converted.hits * converted.hits AS hits_squared
FROM cbir.search_run AS run
INNER JOIN list ON run.run_id = list.run_id
-- As a table, so that it is converted once, however often it is used. A vector has one component at least.
CROSS JOIN
    LATERAL unnest(
        ARRAY[(CASE WHEN list.hits = '{}' THEN '{0}' ELSE list.hits END)::integer[]::vector]
    ) AS converted (hits)
WHERE run.finished_at IS NOT NULL AND list.relevant_count > 0;

COMMENT ON VIEW cbir.query_hits IS
'For every scored query of a run and each of its labels, the number of relevant images among the first n, as a vector.';
