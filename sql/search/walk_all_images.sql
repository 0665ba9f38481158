-- Title: Search the whole index
-- Description: Walks the index without a filter. If the walk finds fewer than k images although more exist, the
--   function returns nothing, and the caller computes the answer exactly.
-- Inputs: an encoder; the build of its index; a vector of length 1; k; ids of images to leave out.
-- Returns: ids and distances, nearest first; NULL: compare exactly.
CREATE FUNCTION cbir_internal.walk_all_images(
    encoder cbir.encoder,
    build cbir.index_build,
    query vector,
    k integer,
    left_out bigint[],
    OUT ids bigint[],
    OUT distances double precision[]
)
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    walk constant record := cbir_internal.index_walk(
        build.method, build.parameters, build.search_settings, build.rows_indexed, (encoder).dim,
        k + cardinality(left_out), 1
    );
    existing integer;
BEGIN
    SELECT w.ids, w.distances INTO ids, distances
    FROM cbir_internal.walked_images(
        encoder, query, k, NULL, NULL, left_out, walk.nearest_first, walk.candidates, walk.kept, walk.settings
    ) AS w;
    IF coalesce(cardinality(ids), 0) < k THEN
        EXECUTE format(
            'SELECT count(*) FROM (SELECT FROM cbir.%I AS e WHERE e.image_id <> ALL($1) LIMIT $2) AS bounded',
            (encoder).table_name
        )
            INTO existing
            USING left_out, k;
        IF coalesce(cardinality(ids), 0) < existing THEN
            ids := NULL;
        END IF;
    END IF;
END
$$;

COMMENT ON FUNCTION cbir_internal.walk_all_images(cbir.encoder, cbir.index_build, vector, integer, bigint[]) IS
'Returns the k nearest images by the vector index, or NULL if the index gives fewer than exist.';
