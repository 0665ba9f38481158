-- Title: Keep images as they are until the transaction ends
-- Description: So that what was computed from them can be written. The datasets first, as whoever removes one does it:
--   the two then wait for each other, and not both. A key lock would let the ingest of a changed file pass, which then
--   does not see the embedding that it has to remove.
-- Inputs: ids of the images' datasets; ids of images; the SHA-256 of what was read of each, which leaves out those
--   whose file is another now (NULL: whatever the file is).
-- Returns: ids of those of the images that are still there.
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
    WHERE hashes IS NULL OR i.sha256 IS NOT DISTINCT FROM r.sha256
    ORDER BY i.image_id
    FOR SHARE OF i;
END
$$;

COMMENT ON FUNCTION cbir_internal.lock_images(bigint[], bigint[], bytea[]) IS
'Keeps images from being changed or removed until the transaction ends; gives those that are there.';
