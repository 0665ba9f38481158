-- Title: The next images that have a file but lack an embedding
-- Description: Of any of some encoders, in the order of their ids, a page at a time.
-- Inputs: encoders; names of datasets (NULL: all); into how many shards the work is cut, and which of them, from 0, is
--   asked for; the last image id of the page before (0: none); images of a page.
-- Returns: what encoding needs to know; missing says of each encoder whether its embedding is lacking.
CREATE FUNCTION cbir_internal.pending_images(
    encoders text[], datasets text[], shards integer, shard integer, after bigint, page integer
)
RETURNS TABLE (
    image_id bigint,
    dataset_id bigint,
    dataset text,
    source text,
    root text,
    sha256 bytea,
    damaged boolean,
    missing boolean[]
)
LANGUAGE plpgsql
STABLE
SET search_path FROM CURRENT
AS $$
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
    lacks constant text [] := cbir_internal.lacking(encoders);
BEGIN
    RETURN QUERY EXECUTE format(
        'SELECT i.image_id, i.dataset_id, d.name, i.source, d.root, i.sha256, i.damage IS NOT NULL, ARRAY[%s]::boolean[]'
        ' FROM cbir.image AS i INNER JOIN cbir.dataset AS d ON d.dataset_id = i.dataset_id'
        ' WHERE ($1 IS NULL OR d.name = ANY($1)) AND mod(i.image_id, $2) = $3 AND i.image_id > $4'
        ' AND d.root IS NOT NULL AND (%s) ORDER BY i.image_id LIMIT $5',
        array_to_string(lacks, ', '), coalesce(nullif(array_to_string(lacks, ' OR '), ''), 'FALSE')
    ) USING datasets, shards, shard, after, page;
END
$$;

COMMENT ON FUNCTION cbir_internal.pending_images(text[], text[], integer, integer, bigint, integer) IS
'The next images that have a file but lack an embedding of any of some encoders.';
