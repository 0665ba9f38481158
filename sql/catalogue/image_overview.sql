-- Title: Images in readable form
-- Description: Lists images, one per row, with dataset, study, patient pseudonym and positive labels. Columns are
--   expressions (sop_uid || ''). Under row-level security, PostgreSQL then tests a reader's condition on visible rows
--   only, and EXPLAIN ANALYZE shows the same counts for a hidden value as for an absent one. To find an image fast by a
--   UID or its file, call cbir.find_image.
CREATE VIEW cbir.image_overview WITH (security_invoker = TRUE) AS
SELECT
    i.image_id,
    d.name || '' AS dataset,
    i.source || '' AS source,
    i.split || '' AS split,
    i.modality || '' AS modality,
    i.anatomic_region || '' AS anatomic_region,
    labelled.labels,
    i.sop_uid || '' AS sop_uid,
    se.series_uid || '' AS series_uid,
    st.study_uid || '' AS study_uid,
    st.study_date + 0 AS study_date,
    i.view || '' AS view,
    p.pseudonym || '' AS patient,
    p.sex || '' AS patient_sex,
    (st.age_years + 0)::smallint AS patient_age_years,
    i.width + 0 AS width,
    i.height + 0 AS height,
    encode(i.sha256, 'hex') AS sha256,
    i.damage || '' AS damage,
    i.frame + 1 AS frame,
    i.modality_code || '' AS modality_code,
    i.body_part || '' AS body_part,
    i.laterality || '' AS laterality,
    i.image_type[1:] AS image_type,
    i.presentation_intent || '' AS presentation_intent,
    i.manufacturer || '' AS manufacturer,
    i.manufacturer_model || '' AS manufacturer_model,
    i.burned_in_annotation || '' AS burned_in_annotation,
    i.photometric_interpretation || '' AS photometric_interpretation,
    i.sop_class_uid || '' AS sop_class_uid,
    i.transfer_syntax_uid || '' AS transfer_syntax_uid,
    i.pixel_spacing[1:] AS pixel_spacing,
    i.slice_position[1:] AS slice_position,
    i.slice_orientation[1:] AS slice_orientation,
    st.accession || '' AS accession,
    encode(i.pixel_sha256, 'hex') AS pixel_sha256,
    i.replaced_by + 0 AS replaced_by
FROM cbir.image AS i
INNER JOIN cbir.dataset AS d ON i.dataset_id = d.dataset_id
LEFT JOIN cbir.series AS se ON i.series_id = se.series_id
LEFT JOIN cbir.study AS st ON i.study_id = st.study_id
LEFT JOIN cbir.patient AS p ON i.patient_id = p.patient_id
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(l.name ORDER BY l.name), '{}') AS labels
    FROM cbir.image_label AS il
    INNER JOIN cbir.label AS l ON il.label_id = l.label_id
    WHERE il.image_id = i.image_id AND il.value = 1
) AS labelled;

COMMENT ON VIEW cbir.image_overview IS
'Lists images, one per row: dataset, file, frame (from 1), split, modality, anatomic region, positive labels, UIDs,'
' patient pseudonym, and what DICOM says of it.';
