-- Title: Lock images until the transaction ends
-- Description: Locks images so that results computed from them can be written. It locks the datasets first, in the same
--   order as the removal of a dataset, so that no deadlock occurs. A key lock on images would be too weak: an ingest of
--   a changed file could then proceed, and would not see the embedding that it must remove.
-- Inputs: ids of the images' datasets; ids of images; for each, the SHA-256 of the file that was read, which excludes
--   images whose file has changed (NULL: whatever the file is).
-- Returns: ids of those of the images that still exist and that no other image replaces.
CREATE FUNCTION cbir_internal.lock_images(dataset_ids bigint[], image_ids bigint[], hashes bytea[] DEFAULT NULL)
RETURNS SETOF bigint
LANGUAGE plpgsql
SET plan_cache_mode = force_custom_plan
SET search_path FROM CURRENT
AS $$
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
BEGIN
    PERFORM FROM cbir.dataset AS d WHERE d.dataset_id = ANY(dataset_ids) ORDER BY d.dataset_id FOR KEY SHARE;
    RETURN QUERY
    SELECT i.image_id
    FROM cbir.image AS i
    INNER JOIN unnest(image_ids, hashes) AS r (image_id, sha256) ON r.image_id = i.image_id
    WHERE (hashes IS NULL OR i.sha256 IS NOT DISTINCT FROM r.sha256) AND i.replaced_by IS NULL
    ORDER BY i.image_id
    FOR SHARE OF i;
END
$$;

COMMENT ON FUNCTION cbir_internal.lock_images(bigint[], bigint[], bytea[]) IS
'Locks images against change and removal until the transaction ends; returns those that exist.';
