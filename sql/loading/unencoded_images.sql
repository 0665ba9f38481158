-- Title: Images that an import left without an embedding
-- Description: Counts images of the datasets that the import's files named, for the last line of its output.
-- Inputs: an encoder; ids of datasets.
-- Returns: their number, and the sources of the first three.
CREATE FUNCTION cbir_internal.unencoded_images(encoder text, dataset_ids bigint[])
RETURNS TABLE (images bigint, examples text[])
LANGUAGE plpgsql
STABLE
SET search_path FROM CURRENT
AS $$
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
BEGIN
    RETURN QUERY EXECUTE format(
        'SELECT count(*), coalesce((array_agg(i.source ORDER BY i.image_id))[1:3], ''{}'') FROM cbir.image AS i'
        ' WHERE i.dataset_id = ANY($1) AND %s', (cbir_internal.lacking(ARRAY[encoder]))[1]
    ) USING dataset_ids;
END
$$;

COMMENT ON FUNCTION cbir_internal.unencoded_images(text, bigint[]) IS
'Counts images of some datasets that lack an embedding, with the sources of the first three.';
