-- Title: Leakage from a run's index into its queries
-- Description: Counts per cause (see cbir.leaking_image), and for all together, how many queries are touched and by how
--   many indexed images. It finds only what the catalogue knows: it cannot find the same patient if patients are not
--   recorded, nor identical files if files were not read (labels only). Such queries count as unknown.
-- Inputs: the same as cbir.leaking_image.
CREATE FUNCTION cbir.leakage(run_id bigint, near_distance double precision DEFAULT 0.001)
RETURNS TABLE (cause text, queries bigint, touched bigint, share double precision, images bigint, unknown bigint)
LANGUAGE plpgsql
STABLE
SET search_path FROM CURRENT
AS $$
#variable_conflict use_column
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
    asked constant cbir.search_run := cbir_internal.check_run(run_id);
BEGIN
    RETURN QUERY
    WITH found AS MATERIALIZED (SELECT l.* FROM cbir.leaking_image($1, $2) AS l),
    query AS (
        SELECT
            count(*) AS queries,
            count(*) FILTER (WHERE i.patient_id IS NULL) AS without_patient,
            count(*) FILTER (WHERE i.sha256 IS NULL) AS without_file
        FROM cbir.search_result AS r
        INNER JOIN cbir.image AS i ON i.image_id = r.query_image_id
        WHERE r.run_id = $1
    )
    SELECT
        kind.cause,
        query.queries,
        count(DISTINCT f.query_image_id) AS touched,
        count(DISTINCT f.query_image_id)::double precision / nullif(query.queries, 0) AS share,
        count(DISTINCT f.image_id) AS images,
        CASE kind.cause
            WHEN 'same patient' THEN query.without_patient
            WHEN 'identical file' THEN query.without_file
            ELSE 0
        END AS unknown
    FROM (VALUES (1, 'same patient'), (2, 'identical file'), (3, 'nearly identical'), (4, 'any of these')) AS kind (place, cause)
    CROSS JOIN query
    LEFT JOIN found AS f ON f.cause = kind.cause OR kind.place = 4
    GROUP BY kind.place, kind.cause, query.queries, query.without_patient, query.without_file
    ORDER BY kind.place;
END
$$;

COMMENT ON FUNCTION cbir.leakage(bigint, double precision) IS
'Counts queries of a run that indexed images give away, per cause: same patient, identical file, nearly identical.';
