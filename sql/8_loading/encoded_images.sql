-- Title: Find which images have an embedding
-- Description: So that an import that is repeated goes past them quickly.
-- Inputs: an encoder; ids of images.
CREATE FUNCTION cbir.encoded_images(encoder text, image_ids bigint[])
RETURNS SETOF bigint
LANGUAGE plpgsql
STABLE
SET search_path FROM CURRENT
AS $$
DECLARE
    boundary constant boolean := cbir.inside_boundary();
BEGIN
    RETURN QUERY EXECUTE format(
        'SELECT e.image_id FROM cbir.%I AS e WHERE e.image_id = ANY($1)', cbir.embedding_table(encoder)
    ) USING image_ids;
END
$$;

COMMENT ON FUNCTION cbir.encoded_images(text, bigint[]) IS
'Those of these images that have an embedding of an encoder.';
