-- Title: Next images that have a file but lack an embedding
-- Description: Returns images that lack an embedding of any of the encoders, in the order of their ids, a page at a
--   time.
-- Inputs: encoders; names of datasets (NULL: all); number of shards of the work, and this shard's number from 0; the
--   last image id of the previous page (0: none); number of images per page.
-- Returns: the columns that encoding needs; missing tells for each encoder whether its embedding is lacking; frame
--   counts from 0.
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
    missing boolean[],
    frame integer,
    sop_uid text
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
        'SELECT i.image_id, i.dataset_id, d.name, i.source, d.root, i.sha256, i.damage IS NOT NULL, ARRAY[%s]::boolean[],'
        ' i.frame, i.sop_uid'
        ' FROM cbir.image AS i INNER JOIN cbir.dataset AS d ON d.dataset_id = i.dataset_id'
        ' WHERE ($1 IS NULL OR d.name = ANY($1)) AND mod(i.image_id, $2) = $3 AND i.image_id > $4'
        ' AND d.root IS NOT NULL AND (%s) ORDER BY i.image_id LIMIT $5',
        array_to_string(lacks, ', '), coalesce(nullif(array_to_string(lacks, ' OR '), ''), 'FALSE')
    ) USING datasets, shards, shard, after, page;
END
$$;

COMMENT ON FUNCTION cbir_internal.pending_images(text[], text[], integer, integer, bigint, integer) IS
'Returns the next images that have a file but lack an embedding of any of the encoders.';
