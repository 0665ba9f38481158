-- Title: Add embeddings of images
-- Description: For whom binary COPY into the table is not: under row-level security, and where another load was faster.
--   Images that have an embedding keep it. As one array it takes less time than a COPY into a table on the way.
-- Inputs: an encoder; ids of images; their unit vectors, as halfvec[] or vector[] as the encoder's precision says.
-- Returns: how many were added.
CREATE FUNCTION cbir.store_embeddings(encoder text, image_ids bigint[], embeddings anyarray)
RETURNS bigint
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    boundary constant boolean := cbir.inside_boundary();
    added bigint;
BEGIN
    EXECUTE format(
        'INSERT INTO cbir.%I (image_id, embedding) SELECT n.image_id, n.embedding'
        ' FROM unnest($1, $2) AS n (image_id, embedding) ON CONFLICT (image_id) DO NOTHING',
        cbir.embedding_table(encoder)
    ) USING image_ids, embeddings;
    GET DIAGNOSTICS added = ROW_COUNT;
    RETURN added;
END
$$;

COMMENT ON FUNCTION cbir.store_embeddings(text, bigint[], anyarray) IS
'Adds embeddings of images that have none of this encoder; gives their number.';
