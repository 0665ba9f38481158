-- Title: Find images that pass the filters of a search
-- Description: Returns the ids of the images that match all fields that are not NULL. A label matches itself and all
--   labels below it: XR/chest matches XR/chest/Pneumonia. The planner inlines this plain SQL into the search, where it
--   knows the fields and drops the conditions of NULL ones. EXISTS lets the planner either look it up for one image or
--   read it once for all of them. The list of images is in a subquery, because otherwise planning would process each
--   item.
-- Inputs: the filter; NULL lets every image pass.
CREATE FUNCTION cbir_internal.matching_image(filter cbir.image_filter)
RETURNS TABLE (image_id bigint)
LANGUAGE sql
STABLE
AS $$
SELECT i.image_id
FROM cbir.image AS i
WHERE
    (($1).dataset IS NULL OR i.dataset_id = (SELECT d.dataset_id FROM cbir.dataset AS d WHERE d.name = ($1).dataset))
    AND (($1).modality IS NULL OR i.modality = ($1).modality)
    AND (($1).anatomic_region IS NULL OR i.anatomic_region = ($1).anatomic_region)
    AND (($1).label IS NULL OR EXISTS (
        SELECT FROM cbir.image_label AS il
        INNER JOIN cbir.label AS l ON l.label_id = il.label_id
        WHERE il.image_id = i.image_id AND il.value = 1 AND (l.name = ($1).label OR starts_with(l.name, ($1).label || '/'))
    ))
    AND (($1).split IS NULL OR i.split = ($1).split)
    AND ((($1).study_from IS NULL AND ($1).study_to IS NULL) OR EXISTS (
        SELECT FROM cbir.study AS st
        WHERE
            st.study_id = i.study_id
            AND (($1).study_from IS NULL OR st.study_date >= ($1).study_from)
            AND (($1).study_to IS NULL OR st.study_date <= ($1).study_to)
    ))
    AND (($1).laterality IS NULL OR i.laterality = ($1).laterality)
    AND (($1).view IS NULL OR i.view = ($1).view)
    AND (($1).image_type IS NULL OR ($1).image_type = ANY(i.image_type))
    AND (($1).manufacturer IS NULL OR i.manufacturer = ($1).manufacturer)
    AND (($1).body_part IS NULL OR i.body_part = ($1).body_part)
    AND (($1).image_ids IS NULL OR i.image_id = ANY((SELECT ($1).image_ids)::bigint []))
$$;

COMMENT ON FUNCTION cbir_internal.matching_image(cbir.image_filter) IS
'Returns the images that pass the given filters; a NULL field filters nothing.';
