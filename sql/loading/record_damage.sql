-- Title: Record a decoder's reports on stored images
-- Description: Writes reports for images whose file is still the one that was read. It locks images in the order of
--   their ids, as every other writer of several images does.
-- Inputs: ids of images, and for each the SHA-256 of the file that was read and the report.
CREATE FUNCTION cbir_internal.record_damage(image_ids bigint[], hashes bytea[], reports text[])
RETURNS void
LANGUAGE plpgsql
SET plan_cache_mode = force_custom_plan
SET search_path FROM CURRENT
AS $$
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
BEGIN
    PERFORM FROM cbir.image AS i WHERE i.image_id = ANY(image_ids) ORDER BY i.image_id FOR NO KEY UPDATE;
    UPDATE cbir.image AS i SET damage = r.damage
    FROM unnest(image_ids, hashes, reports) AS r (image_id, sha256, damage)
    WHERE i.image_id = r.image_id AND i.sha256 IS NOT DISTINCT FROM r.sha256;
END
$$;

COMMENT ON FUNCTION cbir_internal.record_damage(bigint[], bytea[], text[]) IS
'Writes a decoder''s reports on stored images whose file is still the same.';
