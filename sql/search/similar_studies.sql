-- Title: Find similar studies
-- Description: Returns the studies most similar to one ("Which examinations resemble this one?"). It compares all
--   images of a study with those of all other studies. A study's similarity is that of its best pair (m => 1), or the
--   mean over the m images of the query that find the best match in it. A query of fewer images uses all of them. The
--   study's patient is left out unless asked for.
--     SELECT * FROM cbir.similar_studies('tiny-image', study_uid => '1.2.840.1', k => 5, m => 3, modality => 'CT');
-- Inputs: an encoder; a study's UID, or its id; k; m; filters of the images that may match (a NULL one filters
--   nothing); same_patient; mode: auto, exact or approximate (see nearest_study).
CREATE FUNCTION cbir.similar_studies(
    encoder text,
    study_uid text DEFAULT NULL,
    k bigint DEFAULT 10,
    m bigint DEFAULT 1,
    study_id bigint DEFAULT NULL,
    dataset text DEFAULT NULL,
    modality text DEFAULT NULL,
    anatomic_region text DEFAULT NULL,
    label text DEFAULT NULL,
    split text DEFAULT NULL,
    study_from date DEFAULT NULL,
    study_to date DEFAULT NULL,
    image_ids bigint[] DEFAULT NULL,
    same_patient boolean DEFAULT FALSE,
    mode text DEFAULT 'auto',
    laterality text DEFAULT NULL,
    view text DEFAULT NULL,
    image_type text DEFAULT NULL,
    manufacturer text DEFAULT NULL,
    body_part text DEFAULT NULL
)
RETURNS SETOF cbir.similar_study
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
    number constant integer := cbir_internal.checked_count('k', k);
    pairs constant integer := cbir_internal.checked_count('m', m);
    tab constant text := cbir_internal.embedding_table(encoder);
    query_study_id constant bigint := cbir_internal.query_study(study_uid, study_id);
    filter constant cbir.image_filter := ROW(
        dataset, modality, anatomic_region, label, split, study_from, study_to, image_ids, laterality, view, image_type,
        manufacturer, body_part
    );
    query_ids bigint[];
    query_vectors vector[];
    patients bigint[] := '{}';
    found cbir.similar_study[];
BEGIN
    EXECUTE format(
        'SELECT array_agg(e.image_id ORDER BY e.image_id), array_agg(e.embedding::vector ORDER BY e.image_id)
        FROM cbir.%I AS e INNER JOIN cbir.image AS i ON i.image_id = e.image_id
        WHERE i.study_id = $1', tab
    )
        INTO query_ids, query_vectors USING query_study_id;
    IF query_ids IS NULL THEN
        RAISE EXCEPTION 'no image of this study has an embedding of encoder "%"', encoder
            USING ERRCODE = 'no_data_found', HINT = format('Run: cbirdb encode -e %s', encoder);
    END IF;
    IF same_patient IS NOT TRUE THEN
        patients := ARRAY(
            SELECT st.patient_id FROM cbir.study AS st
            WHERE st.study_id = query_study_id AND st.patient_id IS NOT NULL
            UNION
            SELECT i.patient_id FROM cbir.image AS i
            WHERE i.study_id = query_study_id AND i.patient_id IS NOT NULL
        );
    END IF;
    found := ARRAY(
        SELECT
            ROW(
                row_number() OVER (ORDER BY n.distance, n.study_id), st.study_id, st.study_uid, 1 - n.distance,
                n.query_image_id, n.image_id, 1 - n.pair_distance, n.images,
                ARRAY(
                    SELECT DISTINCT l.name
                    FROM cbir.image AS i
                    INNER JOIN cbir.image_label AS il ON il.image_id = i.image_id AND il.value = 1
                    INNER JOIN cbir.label AS l ON l.label_id = il.label_id
                    WHERE i.study_id = st.study_id
                    ORDER BY l.name
                ),
                st.study_date, d.name, n.mode_used, n.complete
            )::cbir.similar_study
        FROM cbir_internal.nearest_study(
            encoder, query_ids, query_vectors, pairs, number, query_study_id, patients, filter, mode
        ) AS n
        INNER JOIN cbir.study AS st ON st.study_id = n.study_id
        INNER JOIN cbir.dataset AS d ON d.dataset_id = st.dataset_id
    );
    IF cardinality(found) = 0 THEN
        PERFORM cbir_internal.check_filter(filter);
    END IF;
    PERFORM cbir_internal.record_search(
        'similar_studies', encoder, query_ids[1], number, filter, coalesce(found[1].mode, mode),
        ARRAY(SELECT f.image_id FROM unnest(found) AS f ORDER BY f.rank),
        same_patient, study_id => query_study_id, m => pairs
    );
    RETURN QUERY SELECT f.* FROM unnest(found) AS f ORDER BY f.rank;
END
$$;

COMMENT ON FUNCTION cbir.similar_studies(
    text, text, bigint, bigint, bigint, text, text, text, text, text, date, date, bigint[], boolean, text, text,
    text, text, text, text
) IS
'Returns the k studies most similar to a study (study_uid or study_id) by the best match, or the mean of the best m,'
' most similar first, with the pair of images that matched; never fewer than exist. Leaves out the patient unless'
' same_patient.';
