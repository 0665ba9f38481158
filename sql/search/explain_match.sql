-- Title: Compare two images
-- Description: Returns what two images have in common, and their distance under every encoder that has both: a row per
--   encoder, nearest first. If a pair is near under one encoder alone, that says more about the encoder than about the
--   images.
--     SELECT * FROM cbir.explain_match(42, 97);
-- Inputs: the ids of two images.
CREATE FUNCTION cbir.explain_match(image_a bigint, image_b bigint)
RETURNS SETOF cbir.match_explanation
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
    id_a bigint;
    id_b bigint;
    spec cbir.encoder;
    a vector;
    b vector;
    names text[] := '{}';
    distances double precision[] := '{}';
BEGIN
    IF num_nulls(image_a, image_b) > 0 THEN
        RAISE EXCEPTION 'give two images, neither of them NULL' USING
            ERRCODE = 'invalid_parameter_value', HINT = 'For example: cbir.explain_match(42, 97), by their image ids.';
    END IF;
    id_a := cbir_internal.query_image(image_a, NULL, NULL);
    id_b := cbir_internal.query_image(image_b, NULL, NULL);
    FOR spec IN SELECT e.* FROM cbir_internal.embedded_encoder() AS e LOOP
        EXECUTE format('SELECT e.embedding::vector FROM cbir.%I AS e WHERE e.image_id = $1', spec.table_name)
            INTO a USING id_a;
        EXECUTE format('SELECT e.embedding::vector FROM cbir.%I AS e WHERE e.image_id = $1', spec.table_name)
            INTO b USING id_b;
        IF a IS NOT NULL AND b IS NOT NULL THEN
            names := names || spec.name;
            -- In the precision of searches, so that the distances equal theirs.
            distances := distances || CASE spec.precision WHEN 'half' THEN a::halfvec <=> b::halfvec ELSE a <=> b END;
        END IF;
    END LOOP;
    PERFORM cbir_internal.record_search('explain_match', NULL, id_a, NULL, NULL, NULL, ARRAY[id_b]);
    RETURN QUERY
    WITH pair AS (
        SELECT
            p.*,
            ARRAY(
                SELECT l.name FROM cbir.image_label AS il INNER JOIN cbir.label AS l ON l.label_id = il.label_id
                WHERE il.image_id = id_a AND il.value = 1 ORDER BY l.name
            ) AS labels_a,
            ARRAY(
                SELECT l.name FROM cbir.image_label AS il INNER JOIN cbir.label AS l ON l.label_id = il.label_id
                WHERE il.image_id = id_b AND il.value = 1 ORDER BY l.name
            ) AS labels_b
        FROM (
            SELECT
                x.sha256 = y.sha256 AS identical_file,
                x.patient_id = y.patient_id AS same_patient,
                x.study_id = y.study_id AS same_study,
                x.series_id = y.series_id AS same_series,
                x.dataset_id = y.dataset_id AS same_dataset,
                x.modality = y.modality AS same_modality,
                x.anatomic_region = y.anatomic_region AS same_anatomic_region
            FROM cbir.image AS x CROSS JOIN cbir.image AS y
            WHERE x.image_id = id_a AND y.image_id = id_b
        ) AS p
    )
    SELECT
        d.name, d.distance, 1 - d.distance,
        ARRAY(SELECT u.name FROM unnest(p.labels_a) AS u (name) WHERE u.name = ANY (p.labels_b) ORDER BY 1),
        ARRAY(SELECT u.name FROM unnest(p.labels_a) AS u (name) WHERE u.name <> ALL (p.labels_b) ORDER BY 1),
        ARRAY(SELECT u.name FROM unnest(p.labels_b) AS u (name) WHERE u.name <> ALL (p.labels_a) ORDER BY 1),
        p.identical_file, p.same_patient, p.same_study, p.same_series, p.same_dataset, p.same_modality,
        p.same_anatomic_region
    FROM pair AS p
    LEFT JOIN unnest(names, distances) AS d (name, distance) ON TRUE
    ORDER BY d.distance, d.name;
END
$$;

COMMENT ON FUNCTION cbir.explain_match(bigint, bigint) IS
'Returns what two images have in common: a row per encoder that has both, with their distance, shared labels, and'
' whether patient, study, series, dataset, modality, anatomic region and file are the same.';
