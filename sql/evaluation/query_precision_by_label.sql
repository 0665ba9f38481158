-- Title: Precision at N of every query for each of its labels
-- Description: Lists precision per query and label. Under the paper's protocol a query has one label, and the view
--   equals cbir.query_precision. Under 'any-label' it shows, for each label of a query, the share of neighbours that
--   carry that label among the first min(N, number of indexed images that carry it).
CREATE VIEW cbir.query_precision_by_label WITH (security_invoker = TRUE) AS
SELECT
    p.run_id,
    p.query_image_id,
    p.label_id,
    p.n,
    p.precision_at_n
FROM cbir.query_precision AS p
WHERE p.label_id IS NOT NULL
UNION ALL
SELECT
    run.run_id,
    result.query_image_id,
    result.label_id,
    cutoff.n,
    cbir_internal.modified_precision(result.hits, cutoff.n, result.relevant_count) AS precision_at_n
FROM cbir.search_run AS run
INNER JOIN cbir.search_result_label AS result ON run.run_id = result.run_id
INNER JOIN generate_series(1, (SELECT max(r.k) FROM cbir.search_run AS r)) AS cutoff (n) ON run.k >= cutoff.n
WHERE run.finished_at IS NOT NULL AND result.relevant_count > 0;

COMMENT ON VIEW cbir.query_precision_by_label IS
'Lists modified precision at N of every scored query for each of its labels, the basis of class-wise means.';
