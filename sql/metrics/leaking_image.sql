-- Title: Indexed images that give a query's answer away
-- Description: Returns for each query of a run the indexed images that a fair test would not have: of the same patient;
--   with the same file, byte for byte; or nearly identical, which is any stored neighbour within near_distance. The
--   distance of scaled or recompressed copies depends on the encoder: look at some before choosing a distance. There is
--   one row per query, image and cause; an image may have several causes. Images that the query could not retrieve are
--   not returned.
-- Inputs: a finished run; the largest cosine distance that counts as nearly identical.
CREATE FUNCTION cbir.leaking_image(run_id bigint, near_distance double precision DEFAULT 0.001)
RETURNS TABLE (query_image_id bigint, image_id bigint, label_ids bigint[], cause text)
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
    WITH run AS (SELECT r.* FROM cbir.search_run AS r WHERE r.run_id = $1),
    member AS MATERIALIZED (
        SELECT c.image_id, c.patient_id, c.label_ids, i.sha256
        FROM cbir_internal.indexed_image($1) AS c
        INNER JOIN cbir.image AS i ON i.image_id = c.image_id
    ),
    query AS MATERIALIZED (
        SELECT i.image_id, i.patient_id, i.sha256
        FROM cbir.search_result AS r
        INNER JOIN cbir.image AS i ON i.image_id = r.query_image_id
        WHERE r.run_id = $1
    )
    SELECT q.image_id, m.image_id, m.label_ids, 'same patient'
    FROM query AS q
    INNER JOIN member AS m ON m.patient_id = q.patient_id AND m.image_id <> q.image_id
    WHERE (SELECT run.same_patient FROM run)
    UNION ALL
    SELECT q.image_id, m.image_id, m.label_ids, 'identical file'
    FROM query AS q
    INNER JOIN member AS m ON m.sha256 = q.sha256 AND m.image_id <> q.image_id
    WHERE (SELECT run.same_patient FROM run) OR m.patient_id IS DISTINCT FROM q.patient_id OR q.patient_id IS NULL
    UNION ALL
    SELECT r.query_image_id, m.image_id, m.label_ids, 'nearly identical'
    FROM cbir.search_result AS r
    CROSS JOIN LATERAL unnest(r.neighbour_ids, r.distances) AS found (image_id, distance)
    INNER JOIN member AS m ON m.image_id = found.image_id
    WHERE r.run_id = $1 AND r.distances[1] <= $2 AND found.distance <= $2;
END
$$;

COMMENT ON FUNCTION cbir.leaking_image(bigint, double precision) IS
'Returns indexed images of a query''s patient, with its file, or nearly identical to it: one row per query, image and'
' cause.';
