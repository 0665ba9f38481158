-- Title: Sources of all images of a dataset
-- Description: In the order of their ids: images whose name, and not whose folder, tells them apart are found by these.
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
'Sources of all images of a dataset, in the order of their ids.';
