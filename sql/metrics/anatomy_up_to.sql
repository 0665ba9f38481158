-- Title: Compare retrieval of pathology and of anatomy, up to some N
-- Description: Returns shares of the first N neighbours: same_modality, same_region (modality and anatomic region of
--   the query), same_finding (relevant), other_finding (right region, another finding), and finding_in_region, the
--   share of the right region that has the right finding. So it shows whether retrieval finds the pathology or only the
--   anatomy. All shares are of plain precision: N is not lowered if fewer relevant images exist, because anatomy has
--   plenty. There is one row for all queries of a run and one for each region. Queries without modality or region count
--   among '(none)' and never match.
-- Reference: the paper's longer version asks this question (anatomy against pathology).
-- Inputs: the largest N (ranks beyond it are not read, which would take most of the time); a finished run (NULL: all of
--   them).
CREATE FUNCTION cbir.anatomy_up_to(largest_n integer, run bigint DEFAULT NULL)
RETURNS TABLE (
    run_id bigint,
    encoder text,
    group_name text,
    n integer,
    same_modality double precision,
    same_region double precision,
    same_finding double precision,
    other_finding double precision,
    finding_in_region double precision,
    queries bigint
)
LANGUAGE plpgsql
STABLE
-- A plan made without the run's id would expect a small run.
SET plan_cache_mode = force_custom_plan
SET search_path FROM CURRENT
AS $$
#variable_conflict use_column
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
    finished bigint;
BEGIN
    IF run IS NOT NULL THEN
        PERFORM cbir_internal.check_run(run);
    END IF;
    FOR finished IN
        SELECT r.run_id FROM cbir.search_run AS r
        WHERE r.finished_at IS NOT NULL AND ($2 IS NULL OR r.run_id = $2) ORDER BY r.run_id
    LOOP
        RETURN QUERY
        SELECT
            counted.run_id,
            e.name AS encoder,
            counted.group_name,
            counted.n,
            counted.same_modality / counted.neighbours AS same_modality,
            counted.same_region / counted.neighbours AS same_region,
            counted.relevant / counted.neighbours AS same_finding,
            (counted.same_region - counted.finding_in_region) / counted.neighbours AS other_finding,
            counted.finding_in_region / nullif(counted.same_region, 0) AS finding_in_region,
            counted.queries
        FROM (
            SELECT
                by_rank.run_id,
                by_rank.group_name,
                by_rank.rank::integer AS n,
                max(by_rank.neighbours) OVER up_to_n::bigint AS queries,
                sum(by_rank.neighbours) OVER up_to_n::double precision AS neighbours,
                sum(by_rank.same_modality) OVER up_to_n::double precision AS same_modality,
                sum(by_rank.same_region) OVER up_to_n::double precision AS same_region,
                sum(by_rank.relevant) OVER up_to_n::double precision AS relevant,
                sum(by_rank.finding_in_region) OVER up_to_n::double precision AS finding_in_region
            FROM (
                SELECT
                    counts.run_id,
                    counts.rank,
                    of_query.group_name,
                    sum(counts.neighbours) AS neighbours,
                    sum(counts.same_modality) AS same_modality,
                    sum(counts.same_region) AS same_region,
                    sum(counts.relevant) AS relevant,
                    sum(counts.finding_in_region) AS finding_in_region
                FROM (
                    SELECT
                        r.run_id,
                        found.rank,
                        q.modality,
                        q.anatomic_region,
                        count(*) AS neighbours,
                        count(*) FILTER (WHERE f.modality = q.modality) AS same_modality,
                        count(*) FILTER (WHERE f.modality = q.modality AND f.anatomic_region = q.anatomic_region) AS same_region,
                        count(*) FILTER (WHERE r.hits[found.rank] > coalesce(r.hits[found.rank - 1], 0)) AS relevant,
                        count(*) FILTER (
                            WHERE f.modality = q.modality AND f.anatomic_region = q.anatomic_region
                            AND r.hits[found.rank] > coalesce(r.hits[found.rank - 1], 0)
                        ) AS finding_in_region
                    FROM cbir.search_result AS r
                    CROSS JOIN LATERAL unnest(r.neighbour_ids[:$1]) WITH ORDINALITY AS found (image_id, rank)
                    INNER JOIN cbir.image AS q ON q.image_id = r.query_image_id
                    INNER JOIN cbir.image AS f ON f.image_id = found.image_id
                    WHERE r.run_id = finished
                    GROUP BY r.run_id, found.rank, q.modality, q.anatomic_region
                ) AS counts
                -- A query counts for the whole run and for its region.
                CROSS JOIN LATERAL (
                    VALUES
                    ('all'), (coalesce(counts.modality, '(none)') || '/' || coalesce(counts.anatomic_region, '(none)'))
                ) AS of_query (group_name)
                GROUP BY counts.run_id, counts.rank, of_query.group_name
            ) AS by_rank
            WINDOW up_to_n AS (PARTITION BY by_rank.run_id, by_rank.group_name ORDER BY by_rank.rank)
        ) AS counted
        INNER JOIN cbir.search_run AS run ON run.run_id = counted.run_id AND run.finished_at IS NOT NULL
        INNER JOIN cbir.encoder AS e ON e.encoder_id = run.encoder_id;
    END LOOP;
END
$$;

COMMENT ON FUNCTION cbir.anatomy_up_to(integer, bigint) IS
'Returns the rows of cbir.pathology_against_anatomy for N up to the given one, in a fraction of the time.';
