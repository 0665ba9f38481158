-- Title: Add embeddings of images
-- Description: Adds embeddings in two cases in which binary COPY fails: under row-level security, and if another load
--   has meanwhile stored some of them; those images keep theirs. One array per batch takes less time than a COPY into a
--   temporary table.
-- Inputs: an encoder; ids of images; their unit vectors, as halfvec[] or vector[], by the encoder's precision.
-- Returns: the number of added embeddings.
CREATE FUNCTION cbir_internal.store_embeddings(encoder text, image_ids bigint[], embeddings anyarray)
RETURNS bigint
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
    added bigint;
BEGIN
    EXECUTE format(
        'INSERT INTO cbir.%I (image_id, embedding) SELECT n.image_id, n.embedding'
        ' FROM unnest($1, $2) AS n (image_id, embedding) ON CONFLICT (image_id) DO NOTHING',
        cbir_internal.embedding_table(encoder)
    ) USING image_ids, embeddings;
    GET DIAGNOSTICS added = ROW_COUNT;
    RETURN added;
END
$$;

COMMENT ON FUNCTION cbir_internal.store_embeddings(text, bigint[], anyarray) IS
'Adds embeddings of images that have none of this encoder; returns their number.';
