-- Title: Find images by UID, file or id
-- Description: Returns images fast by a UID or a file. Views show these columns as expressions, which no index serves.
--   An image must match all arguments that are given. This is no similarity search and writes no audit entry.
--     SELECT * FROM cbir.find_image(sop_uid => '1.2.840.1');
-- Inputs: an image's id; SOP, series and study instance UIDs; a file as its dataset names it; a dataset's name; at
--   least one besides the dataset.
CREATE FUNCTION cbir.find_image(
    sop_uid text DEFAULT NULL,
    study_uid text DEFAULT NULL,
    series_uid text DEFAULT NULL,
    source text DEFAULT NULL,
    dataset text DEFAULT NULL,
    image_id bigint DEFAULT NULL
)
RETURNS SETOF cbir.found_image
LANGUAGE plpgsql
STABLE
SET plan_cache_mode = force_custom_plan
SET search_path FROM CURRENT
AS $$
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
BEGIN
    IF num_nonnulls(sop_uid, study_uid, series_uid, source, image_id) = 0 THEN
        RAISE EXCEPTION 'give a UID, a source or an image_id' USING
            ERRCODE = 'invalid_parameter_value', HINT = 'For example: cbir.find_image(sop_uid => ''1.2.3'')';
    END IF;
    RETURN QUERY
    SELECT
        i.image_id, d.name, d.root, i.source, i.frame + 1, i.split, i.modality, i.anatomic_region,
        ARRAY(
            SELECT l.name FROM cbir.image_label AS il
            INNER JOIN cbir.label AS l ON l.label_id = il.label_id
            WHERE il.image_id = i.image_id AND il.value = 1 ORDER BY l.name
        ),
        i.sop_uid, se.series_uid, st.study_uid, st.study_date, p.pseudonym, i.replaced_by
    FROM cbir.image AS i
    INNER JOIN cbir.dataset AS d ON d.dataset_id = i.dataset_id
    LEFT JOIN cbir.series AS se ON se.series_id = i.series_id
    LEFT JOIN cbir.study AS st ON st.study_id = i.study_id
    LEFT JOIN cbir.patient AS p ON p.patient_id = i.patient_id
    WHERE
        (find_image.sop_uid IS NULL OR i.sop_uid = find_image.sop_uid)
        AND (find_image.study_uid IS NULL OR i.study_id IN (
            SELECT s.study_id FROM cbir.study AS s WHERE s.study_uid = find_image.study_uid
        ))
        AND (find_image.series_uid IS NULL OR i.series_id IN (
            SELECT s.series_id FROM cbir.series AS s WHERE s.series_uid = find_image.series_uid
        ))
        AND (find_image.source IS NULL OR (
            i.source = find_image.source AND i.dataset_id IN (SELECT a.dataset_id FROM cbir.dataset AS a)
        ))
        AND (find_image.dataset IS NULL OR d.name = find_image.dataset)
        AND (find_image.image_id IS NULL OR i.image_id = find_image.image_id)
    ORDER BY i.image_id;
END
$$;

COMMENT ON FUNCTION cbir.find_image(text, text, text, text, text, bigint) IS
'Returns images by SOP, series or study UID, by file, or by id, with dataset, labels and UIDs; the fast way to an'
' image.';
