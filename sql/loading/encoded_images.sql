-- Title: Find images that have an embedding
-- Description: Returns those of the given images that have an embedding, so that a repeated import skips them quickly.
-- Inputs: an encoder; ids of images.
CREATE FUNCTION cbir_internal.encoded_images(encoder text, image_ids bigint[])
RETURNS SETOF bigint
LANGUAGE plpgsql
STABLE
SET search_path FROM CURRENT
AS $$
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
BEGIN
    RETURN QUERY EXECUTE format(
        'SELECT e.image_id FROM cbir.%I AS e WHERE e.image_id = ANY($1)', cbir_internal.embedding_table(encoder)
    ) USING image_ids;
END
$$;

COMMENT ON FUNCTION cbir_internal.encoded_images(text, bigint[]) IS
'Returns those of the given images that have an embedding of an encoder.';
