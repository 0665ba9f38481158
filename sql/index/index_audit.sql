-- Title: Last audit of each vector index
-- Description: Lists the indexes in use, one per row, with the result of their last audit. An audit takes a sample of
--   stored vectors and compares the index with exact search: the share of vectors that find themselves; of the true 10
--   and 100 nearest the mean share found, its first percentile, and the number of queries that found none. NULL: not
--   audited (cbirdb index audit). zeros_at_10 and zeros_at_100 are earlier names of queries_without_hit_at_10 and
--   queries_without_hit_at_100; they stay for one release.
CREATE VIEW cbir.index_audit WITH (security_invoker = TRUE) AS
SELECT
    e.name AS encoder,
    b.index_build_id,
    b.method,
    b.parameters,
    b.search_settings,
    b.rows_indexed,
    b.index_bytes,
    b.built_at,
    (b.audit ->> 'audited_at')::timestamptz AS audited_at,
    (b.audit ->> 'sample')::integer AS sample,
    (b.audit ->> 'self_retrieval')::double precision AS self_retrieval,
    (b.audit #>> '{recall_at_10,mean}')::double precision AS recall_at_10,
    (b.audit #>> '{recall_at_10,p1}')::double precision AS recall_at_10_p1,
    (b.audit #>> '{recall_at_10,zeros}')::integer AS queries_without_hit_at_10,
    (b.audit #>> '{recall_at_100,mean}')::double precision AS recall_at_100,
    (b.audit #>> '{recall_at_100,p1}')::double precision AS recall_at_100_p1,
    (b.audit #>> '{recall_at_100,zeros}')::integer AS queries_without_hit_at_100,
    (b.audit ->> 'p95_ms')::double precision AS p95_ms,
    (b.audit ->> 'passed')::boolean AS passed,
    (b.audit #>> '{recall_at_10,zeros}')::integer AS zeros_at_10,
    (b.audit #>> '{recall_at_100,zeros}')::integer AS zeros_at_100
FROM cbir.index_build AS b
INNER JOIN cbir.encoder AS e ON b.encoder_id = e.encoder_id
WHERE b.dropped_at IS NULL;

COMMENT ON VIEW cbir.index_audit IS
'Lists each vector index in use with its last audit: self-retrieval, and recall at 10 and 100 against exact search.';
