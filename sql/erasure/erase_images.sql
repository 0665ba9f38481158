-- Title: Remove images from every table
-- Description: Their embeddings under every encoder, labels, stored neighbours, and the failures that name their files;
--   not their ids in the search audit (redact_audit). Part of cbir.erase_patient, which says who may.
-- Inputs: ids of images.
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
    -- First of all, and in the order in which an encode locks the images it writes of: neither waits for the other's.
    PERFORM FROM cbir.image AS i WHERE i.image_id = ANY (image_ids) ORDER BY i.image_id FOR UPDATE;
    removed := cbir_internal.erase_from_runs(image_ids);
    FOR tab IN SELECT e.table_name FROM cbir_internal.embedded_encoder() AS e LOOP
        EXECUTE format('DELETE FROM cbir.%I AS e WHERE e.image_id = ANY ($1)', tab) USING image_ids;
        GET DIAGNOSTICS number = ROW_COUNT;
        of_encoders := of_encoders || jsonb_build_object(tab, number);
    END LOOP;
    DELETE FROM cbir.failure AS f
    USING cbir.image AS i
    WHERE
        i.image_id = ANY (image_ids) AND f.source = i.source
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
