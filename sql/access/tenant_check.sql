-- Title: What a role under row-level security must keep to when it writes
-- Description: Besides writing only what it sees (tenant_condition): patient, study and series of an image, and
--   the patient of a study, are of the same dataset. A row on another site's patient would go with that patient when
--   they are erased, and an error of the foreign key alone would tell which ids are there.
-- Inputs: the name of a table of schema cbir.
CREATE FUNCTION cbir_internal.tenant_check(table_name text)
RETURNS text
LANGUAGE sql
IMMUTABLE
SET search_path FROM CURRENT
AS $$
SELECT nullif(concat_ws(
    ' AND ',
    CASE WHEN $1 IN ('study', 'image') THEN format(
        '(patient_id IS NULL OR EXISTS (SELECT FROM cbir.patient AS p'
        ' WHERE p.patient_id = %1$I.patient_id AND p.dataset_id = %1$I.dataset_id))', $1
    ) END,
    CASE WHEN $1 = 'image' THEN
        '(study_id IS NULL OR EXISTS (SELECT FROM cbir.study AS s'
        ' WHERE s.study_id = image.study_id AND s.dataset_id = image.dataset_id))'
        ' AND (series_id IS NULL OR EXISTS (SELECT FROM cbir.series AS se'
        ' INNER JOIN cbir.study AS s ON s.study_id = se.study_id'
        ' WHERE se.series_id = image.series_id AND s.dataset_id = image.dataset_id))'
    END
), '')
$$;

COMMENT ON FUNCTION cbir_internal.tenant_check(text) IS
'What a table''s policy under row-level security demands of rows that are written, besides that they are seen; NULL:'
' nothing.';
