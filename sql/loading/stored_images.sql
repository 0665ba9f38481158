-- Title: Stored images of a dataset
-- Description: Returns images by their sources, every frame of each, with everything that loading compares.
-- Inputs: a dataset's id; sources.
CREATE FUNCTION cbir_internal.stored_images(dataset_id bigint, sources text[])
RETURNS SETOF cbir.image_record
LANGUAGE plpgsql
STABLE
SET plan_cache_mode = force_custom_plan
SET search_path FROM CURRENT
AS $$
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
BEGIN
    RETURN QUERY
    SELECT
        i.image_id, i.source, i.split, i.modality, i.anatomic_region, i.view, i.sha256, i.width, i.height,
        i.file_bytes, i.file_modified_ns, i.damage, p.pseudonym, p.sex, s.study_uid, s.study_date, s.age_years,
        (
            SELECT coalesce(jsonb_object_agg(l.name, il.value), '{}')
            FROM cbir.image_label AS il
            INNER JOIN cbir.label AS l ON l.label_id = il.label_id
            WHERE il.image_id = i.image_id
        ),
        i.frame, i.sop_uid, se.series_uid, s.accession, i.pixel_sha256,
        i.sop_class_uid, i.transfer_syntax_uid, i.modality_code, i.body_part, i.laterality, i.image_type,
        i.presentation_intent, i.manufacturer, i.manufacturer_model, i.photometric_interpretation,
        i.burned_in_annotation, i.pixel_spacing, i.slice_position, i.slice_orientation
    FROM cbir.image AS i
    LEFT JOIN cbir.patient AS p ON p.patient_id = i.patient_id
    LEFT JOIN cbir.study AS s ON s.study_id = i.study_id
    LEFT JOIN cbir.series AS se ON se.series_id = i.series_id
    WHERE i.dataset_id = stored_images.dataset_id AND i.source = ANY(sources);
END
$$;

COMMENT ON FUNCTION cbir_internal.stored_images(bigint, text[]) IS
'Returns images of a dataset, by their sources, with everything that loading compares.';
