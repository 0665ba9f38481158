-- Title: Remove images from every table
-- Description: Removes images with their embeddings under every encoder, labels, stored neighbours, predictions, and
--   the failures that name their files. Their ids in the search audit stay; redact_audit removes them. Only
--   cbir.erase_patient and cbir.reapply_erasures call it, and their grants decide who may.
-- Inputs: ids of images.
-- Returns: an object with the number of removed rows by table.
CREATE FUNCTION cbir_internal.erase_images(image_ids bigint[])
RETURNS jsonb
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    removed jsonb;
    of_encoders jsonb := '{}';
    tab text;
    number bigint;
BEGIN
    -- Locks the images first, in the same order as an encode locks the images that it writes, so that no deadlock
    -- occurs.
    PERFORM FROM cbir.image AS i WHERE i.image_id = ANY (image_ids) ORDER BY i.image_id FOR UPDATE;
    removed := cbir_internal.erase_from_runs(image_ids) || cbir_internal.erase_from_probes(image_ids);
    FOR tab IN SELECT e.table_name FROM cbir_internal.embedded_encoder() AS e LOOP
        EXECUTE format('DELETE FROM cbir.%I AS e WHERE e.image_id = ANY ($1)', tab) USING image_ids;
        GET DIAGNOSTICS number = ROW_COUNT;
        of_encoders := of_encoders || jsonb_build_object(tab, number);
    END LOOP;
    DELETE FROM cbir.failure AS f
    USING cbir.image AS i
    WHERE
        i.image_id = ANY (image_ids) AND f.source IN (i.source, i.source || '#' || (i.frame + 1))
        AND (f.dataset_id = i.dataset_id OR f.dataset_id IS NULL);
    GET DIAGNOSTICS number = ROW_COUNT;
    removed := removed || of_encoders || jsonb_build_object('failure', number);
    DELETE FROM cbir.image_label AS il WHERE il.image_id = ANY (image_ids);
    GET DIAGNOSTICS number = ROW_COUNT;
    removed := removed || jsonb_build_object('image_label', number);
    DELETE FROM cbir.image AS i WHERE i.image_id = ANY (image_ids);
    GET DIAGNOSTICS number = ROW_COUNT;
    removed := removed || jsonb_build_object('image', number);
    RETURN removed;
END
$$;

COMMENT ON FUNCTION cbir_internal.erase_images(bigint[]) IS
'Removes images from every table; returns the number of rows by table.';
