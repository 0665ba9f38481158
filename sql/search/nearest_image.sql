-- Title: Find the images nearest to a vector
-- Description: Returns never fewer than k images if so many exist. It serves every other search function. It checks the
--   arguments, walks the vector index if that is better, and else compares exactly.
--   exact        compares with every image that passes the filter (see scan_images).
--   approximate  walks the encoder's vector index (see walk_all_images, walk_matching_images). If the walk finds too
--                few although more images exist, it computes the answer exactly instead.
--   auto         is approximate if there is an index, and exact if comparing with all matches is faster.
--   If row-level security hides images from the caller, every search is exact, whatever the mode.
-- Inputs: an encoder; a vector of its dimension; k; an image, a patient and a study to leave out; a filter (see
--   cbir.image_filter); a mode.
CREATE FUNCTION cbir_internal.nearest_image(
    encoder text,
    query vector,
    k integer DEFAULT 10,
    without_image bigint DEFAULT NULL,
    without_patient bigint DEFAULT NULL,
    without_study bigint DEFAULT NULL,
    filter cbir.image_filter DEFAULT NULL,
    mode text DEFAULT 'auto'
)
RETURNS TABLE (rank integer, image_id bigint, distance double precision, mode_used text, complete boolean)
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    spec constant cbir.encoder := cbir_internal.check_search(encoder, k, mode, query);
    build constant cbir.index_build := cbir_internal.usable_index(spec, mode);
    -- Only the direction counts. Very short or long vectors overflow half precision and pgvector's sums.
    unit_query constant vector := l2_normalize(query);
    left_out bigint[] := '{}';
    passing bigint[];
    ids bigint[];
    distances double precision[];
BEGIN
    IF num_nonnulls(without_image, without_patient, without_study) > 0 THEN
        left_out := ARRAY(
            SELECT i.image_id
            FROM cbir.image AS i
            WHERE i.image_id = without_image OR i.patient_id = without_patient OR i.study_id = without_study
        );
    END IF;
    mode_used := 'approximate';
    IF build.index_build_id IS NOT NULL AND filter IS NULL THEN
        SELECT w.ids, w.distances INTO ids, distances
        FROM cbir_internal.walk_all_images(spec, build, unit_query, k, left_out) AS w;
    ELSIF build.index_build_id IS NOT NULL THEN
        SELECT w.ids, w.distances, w.passing INTO ids, distances, passing
        FROM cbir_internal.walk_matching_images(spec, build, unit_query, k, filter, left_out, mode) AS w;
    END IF;
    IF ids IS NULL THEN
        mode_used := 'exact';
        SELECT s.ids, s.distances INTO ids, distances
        FROM cbir_internal.scan_images(spec, unit_query, k, filter, left_out, passing) AS s;
    END IF;
    RETURN QUERY
    SELECT a.place::integer, a.id, a.distance, mode_used, TRUE
    FROM unnest(ids, distances) WITH ORDINALITY AS a (id, distance, place)
    ORDER BY a.place;
END
$$;

COMMENT ON FUNCTION cbir_internal.nearest_image(
    text, vector, integer, bigint, bigint, bigint, cbir.image_filter, text
) IS
'Returns the k images nearest to a vector by cosine distance: rank, image, distance, mode that was used, and whether'
' all rows that exist up to k were returned.';
