-- Title: Find images by their sources, in several datasets
-- Description: Returns ids of images. The caller gives ids of datasets, so that the index on (dataset_id, source) can
--   be used.
-- Inputs: ids of datasets; sources.
CREATE FUNCTION cbir_internal.images_by_source(dataset_ids bigint[], sources text[])
RETURNS TABLE (source text, image_id bigint, dataset text, dataset_id bigint)
LANGUAGE plpgsql
STABLE
SET plan_cache_mode = force_custom_plan
SET search_path FROM CURRENT
AS $$
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
BEGIN
    RETURN QUERY
    SELECT i.source, i.image_id, d.name, d.dataset_id
    FROM cbir.image AS i
    INNER JOIN cbir.dataset AS d ON d.dataset_id = i.dataset_id
    WHERE i.dataset_id = ANY(dataset_ids) AND i.source = ANY(sources) AND i.frame = 0;
END
$$;

COMMENT ON FUNCTION cbir_internal.images_by_source(bigint[], text[]) IS
'Returns the ids of images by their sources, in several datasets.';
