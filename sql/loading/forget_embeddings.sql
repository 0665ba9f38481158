-- Title: Remove the embeddings of images whose pixels have changed
-- Description: Removes the embeddings under every encoder.
-- Inputs: ids of images.
CREATE FUNCTION cbir_internal.forget_embeddings(image_ids bigint[])
RETURNS void
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    encoder record;
BEGIN
    FOR encoder IN SELECT e.table_name FROM cbir_internal.embedded_encoder() AS e LOOP
        EXECUTE format('DELETE FROM cbir.%I WHERE image_id = ANY($1)', encoder.table_name) USING image_ids;
    END LOOP;
END
$$;

COMMENT ON FUNCTION cbir_internal.forget_embeddings(bigint[]) IS
'Removes the embeddings of images whose pixels have changed, under every encoder.';
