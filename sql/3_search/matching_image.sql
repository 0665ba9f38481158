-- Title: Images that pass the filters of a search
-- Description: Every filter that is NULL lets everything pass. A label matches itself and what lies below it:
--   XR/chest matches XR/chest/Pneumonia. Plain SQL that the planner inlines into the search.
-- Inputs: names of a dataset, a modality, an anatomic region, a label, a split; first and last study date.
CREATE FUNCTION cbir.matching_image(
    dataset text, modality text, anatomic_region text, label text, split text, study_from date, study_to date
)
RETURNS TABLE (image_id bigint)
LANGUAGE sql
STABLE
AS $$
SELECT i.image_id
FROM cbir.image AS i
WHERE
    ($1 IS NULL OR i.dataset_id = (SELECT d.dataset_id FROM cbir.dataset AS d WHERE d.name = $1))
    AND ($2 IS NULL OR i.modality = $2)
    AND ($3 IS NULL OR i.anatomic_region = $3)
    AND ($4 IS NULL OR i.image_id IN (
        SELECT il.image_id
        FROM cbir.image_label AS il
        INNER JOIN cbir.label AS l ON l.label_id = il.label_id
        WHERE il.value = 1 AND (l.name = $4 OR starts_with(l.name, $4 || '/'))
    ))
    AND ($5 IS NULL OR i.split = $5)
    AND (($6 IS NULL AND $7 IS NULL) OR i.study_id IN (
        SELECT st.study_id
        FROM cbir.study AS st
        WHERE ($6 IS NULL OR st.study_date >= $6) AND ($7 IS NULL OR st.study_date <= $7)
    ))
$$;

COMMENT ON FUNCTION cbir.matching_image(text, text, text, text, text, date, date) IS
'Images that pass the given filters; a filter that is NULL lets everything pass.';
