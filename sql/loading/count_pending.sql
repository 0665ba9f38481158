-- Title: Count the images that lack an embedding
-- Description: Counts all images that pending_images would return, and those that it leaves out because they have no
--   file. Without encoders it counts images.
-- Inputs: the same as pending_images.
-- Returns: images, all images of these datasets and this shard; pending, those with a file that lack an embedding of
--   any of the encoders; for each encoder the number of images that lack its embedding: lacking, with a file, and
--   without_file, without one.
CREATE FUNCTION cbir_internal.count_pending(encoders text[], datasets text[], shards integer, shard integer)
RETURNS TABLE (images bigint, pending bigint, lacking bigint[], without_file bigint[])
LANGUAGE plpgsql
STABLE
SET search_path FROM CURRENT
AS $$
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
    lacks constant text [] := cbir_internal.lacking(encoders);
    counts constant text := (
        SELECT coalesce(string_agg(format('count(*) FILTER (WHERE %s AND d.root IS %%1$s NULL)', l.lack), ', '), '')
        FROM unnest(lacks) AS l (lack)
    );
BEGIN
    RETURN QUERY EXECUTE format(
        'SELECT count(*), count(*) FILTER (WHERE d.root IS NOT NULL AND (%s)), ARRAY[%s]::bigint[], ARRAY[%s]::bigint[]'
        ' FROM cbir.image AS i INNER JOIN cbir.dataset AS d ON d.dataset_id = i.dataset_id'
        ' WHERE ($1 IS NULL OR d.name = ANY($1)) AND mod(i.image_id, $2) = $3',
        coalesce(nullif(array_to_string(lacks, ' OR '), ''), 'FALSE'), format(counts, 'NOT'), format(counts, '')
    ) USING datasets, shards, shard;
END
$$;

COMMENT ON FUNCTION cbir_internal.count_pending(text[], text[], integer, integer) IS
'Counts images, and those that lack an embedding, with a file and without one.';
