-- Title: Precision at N of every query
-- Description: Lists modified precision: with n = min(N, number of indexed images that carry the query's label), the
--   share of relevant images among the first n. A query has none (0/0) if no indexed image carries its label.
-- Reference: the paper's authors' code (MIC-DKFZ/foundation-models-for-cbmir).
CREATE VIEW cbir.query_precision WITH (security_invoker = TRUE) AS
SELECT
    run.run_id,
    result.query_image_id,
    result.label_id,
    cutoff.n,
    cbir_internal.modified_precision(result.hits, cutoff.n, result.relevant_count) AS precision_at_n
FROM cbir.search_run AS run
INNER JOIN cbir.search_result AS result ON run.run_id = result.run_id
-- Not per run, so that a condition on n reduces the rows before any query is read.
INNER JOIN generate_series(1, (SELECT max(r.k) FROM cbir.search_run AS r)) AS cutoff (n) ON run.k >= cutoff.n
WHERE run.finished_at IS NOT NULL AND result.relevant_count > 0;

COMMENT ON VIEW cbir.query_precision IS
'Lists modified precision at N of every scored query, for N from 1 to the run''s k.';
