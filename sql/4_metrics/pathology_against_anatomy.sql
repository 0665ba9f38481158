-- Title: Does retrieval find the pathology, or only the anatomy?
-- Description: Of the first N neighbours, the share of the query's modality, of its modality and anatomic region, and
--   of those that are relevant (its finding); "other_finding" is the share of the right region with another finding,
--   and "finding_in_region" what of the right region has the right finding. All of plain precision: N is not lowered
--   where fewer relevant images exist, since anatomy has plenty. One row for all queries of a run and one for each
--   region; queries without modality or region count among '(none)' and never match.
-- Reference: the question is that of the paper's longer version (anatomy against pathology).
CREATE VIEW cbir.pathology_against_anatomy WITH (security_invoker = TRUE) AS
SELECT
    counted.run_id,
    e.name AS encoder,
    counted.group_name,
    counted.n,
    counted.same_modality / counted.neighbours AS same_modality,
    counted.same_region / counted.neighbours AS same_region,
    counted.relevant / counted.neighbours AS same_finding,
    counted.other_finding / counted.neighbours AS other_finding,
    counted.finding_in_region / nullif(counted.same_region, 0) AS finding_in_region,
    counted.queries
FROM (
    SELECT
        by_rank.run_id,
        by_rank.group_name,
        by_rank.rank AS n,
        max(by_rank.queries) OVER up_to_n AS queries,
        sum(by_rank.queries) OVER up_to_n::double precision AS neighbours,
        sum(by_rank.same_modality) OVER up_to_n::double precision AS same_modality,
        sum(by_rank.same_region) OVER up_to_n::double precision AS same_region,
        sum(by_rank.relevant) OVER up_to_n::double precision AS relevant,
        sum(by_rank.other_finding) OVER up_to_n::double precision AS other_finding,
        sum(by_rank.finding_in_region) OVER up_to_n::double precision AS finding_in_region
    FROM (
        SELECT
            n.run_id,
            n.rank,
            CASE
                WHEN grouping(q.modality, q.anatomic_region) = 3 THEN 'all'
                ELSE coalesce(q.modality, '(none)') || '/' || coalesce(q.anatomic_region, '(none)')
            END AS group_name,
            count(*) AS queries,
            count(*) FILTER (WHERE f.modality = q.modality) AS same_modality,
            count(*) FILTER (WHERE f.modality = q.modality AND f.anatomic_region = q.anatomic_region) AS same_region,
            count(*) FILTER (WHERE n.relevant) AS relevant,
            count(*) FILTER (
                WHERE f.modality = q.modality AND f.anatomic_region = q.anatomic_region AND NOT n.relevant
            ) AS other_finding,
            count(*) FILTER (
                WHERE f.modality = q.modality AND f.anatomic_region = q.anatomic_region AND n.relevant
            ) AS finding_in_region
        FROM cbir.neighbour AS n
        INNER JOIN cbir.image AS q ON n.query_image_id = q.image_id
        INNER JOIN cbir.image AS f ON n.image_id = f.image_id
        GROUP BY GROUPING SETS ((n.run_id, n.rank), (n.run_id, n.rank, q.modality, q.anatomic_region))
    ) AS by_rank
    WINDOW up_to_n AS (PARTITION BY by_rank.run_id, by_rank.group_name ORDER BY by_rank.rank)
) AS counted
INNER JOIN cbir.search_run AS run ON counted.run_id = run.run_id AND run.finished_at IS NOT NULL
INNER JOIN cbir.encoder AS e ON run.encoder_id = e.encoder_id;

COMMENT ON VIEW cbir.pathology_against_anatomy IS
'Of the first N neighbours, the shares of the query''s modality, region and finding, and of the right region with'
' another finding, per run and region.';
