-- Title: Retrieval of pathology and of anatomy
-- Description: Shows cbir.anatomy_up_to for every N: whether retrieval finds the pathology or only the anatomy. If the
--   first few N are enough, that function answers sooner, because a condition on n does not keep this view from
--   counting whole lists.
-- Reference: the same as cbir.anatomy_up_to.
CREATE VIEW cbir.pathology_against_anatomy WITH (security_invoker = TRUE) AS
SELECT
    r.run_id,
    a.encoder,
    a.group_name,
    a.n,
    a.same_modality,
    a.same_region,
    a.same_finding,
    a.other_finding,
    a.finding_in_region,
    a.queries
FROM cbir.search_run AS r
CROSS JOIN LATERAL cbir.anatomy_up_to(10000, r.run_id) AS a
WHERE r.finished_at IS NOT NULL;

COMMENT ON VIEW cbir.pathology_against_anatomy IS
'Shows for the first N neighbours the shares of the query''s modality, region and finding, and of the right region'
' with another finding, per run and region.';
