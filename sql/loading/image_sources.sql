-- Title: Sources of all images of a dataset
-- Description: Returns sources in the order of the image ids. Loading uses them to find images that are identified by
--   their file name and not by their folder.
-- Inputs: a dataset's id.
CREATE FUNCTION cbir_internal.image_sources(dataset_id bigint)
RETURNS SETOF text
LANGUAGE plpgsql
STABLE
SET search_path FROM CURRENT
AS $$
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
BEGIN
    RETURN QUERY
    SELECT i.source FROM cbir.image AS i
    WHERE i.dataset_id = image_sources.dataset_id AND i.frame = 0
    ORDER BY i.image_id;
END
$$;

COMMENT ON FUNCTION cbir_internal.image_sources(bigint) IS
'Returns the sources of all images of a dataset, in the order of their ids.';
