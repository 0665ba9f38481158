-- Title: Condition on rows that a restricted role writes
-- Description: Returns a condition that new rows must meet besides tenant_condition, by which a role writes only rows
--   that it sees. Patient, study and series of an image, and the patient of a study or of a merged patient, must belong
--   to the same dataset. Otherwise, a row on another site's patient would vanish when that patient is erased, and an
--   error of the foreign key would reveal which ids exist.
-- Inputs: the name of a table of schema cbir.
CREATE FUNCTION cbir_internal.tenant_check(table_name text)
RETURNS text
LANGUAGE sql
IMMUTABLE
SET search_path FROM CURRENT
AS $$
SELECT nullif(concat_ws(
    ' AND ',
    CASE WHEN $1 IN ('merged_patient', 'study', 'image') THEN format(
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
'Returns the condition that a table''s policy sets for written rows, besides that they are visible; NULL: none.';
