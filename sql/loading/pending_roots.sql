-- Title: Folders of the datasets that lack embeddings
-- Description: Returns folders for an encode to check first: it opens files only below folders that the machine's
--   operator names.
-- Inputs: encoders; names of datasets (NULL: all).
-- Returns: name and folder of each dataset that has files, and an image that lacks an embedding of any of the encoders.
CREATE FUNCTION cbir_internal.pending_roots(encoders text[], datasets text[])
RETURNS TABLE (dataset text, root text)
LANGUAGE plpgsql
STABLE
SET search_path FROM CURRENT
AS $$
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
BEGIN
    RETURN QUERY EXECUTE format(
        'SELECT d.name, d.root FROM cbir.dataset AS d'
        ' WHERE d.root IS NOT NULL AND ($1 IS NULL OR d.name = ANY($1))'
        ' AND EXISTS (SELECT FROM cbir.image AS i WHERE i.dataset_id = d.dataset_id AND (%s)) ORDER BY d.name',
        coalesce(nullif(array_to_string(cbir_internal.lacking(encoders), ' OR '), ''), 'FALSE')
    ) USING datasets;
END
$$;

COMMENT ON FUNCTION cbir_internal.pending_roots(text[], text[]) IS
'Returns names and folders of the datasets with an image that lacks an embedding.';
