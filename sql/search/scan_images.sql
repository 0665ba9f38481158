-- Title: Compare with every image that passes a filter
-- Description: Returns the k nearest images by exact comparison. If at most a quarter of all images pass, it collects
--   their ids and reads their vectors by key; if more pass, it reads all vectors. "+ 0" keeps the planner from using
--   the vector index.
-- Inputs: an encoder; a vector of length 1; k; a filter; ids of images to leave out; ids of the images that pass, if
--   the caller has them.
-- Returns: ids and distances, nearest first, at equal distance the lower id first; NULL if none passes.
CREATE FUNCTION cbir_internal.scan_images(
    encoder cbir.encoder,
    query vector,
    k integer,
    filter cbir.image_filter,
    left_out bigint[],
    passing bigint[],
    OUT ids bigint[],
    OUT distances double precision[]
)
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    -- TRUE if the filter has at least one field.
    filtered constant boolean := (filter IS NULL) IS FALSE;
    quarter bigint;
BEGIN
    IF filtered AND passing IS NULL THEN
        SELECT ceil(greatest(c.reltuples, 1) / 4) INTO quarter FROM pg_class AS c WHERE c.oid = 'cbir.image'::regclass;
        IF cbir_internal.estimated_matches(filter) <= quarter THEN
            passing := cbir_internal.few_matching_images(filter, quarter);
        END IF;
    END IF;
    EXECUTE format(
        'SELECT array_agg(image_id ORDER BY distance, image_id), array_agg(distance ORDER BY distance, image_id)
        FROM (
            SELECT e.image_id, (e.embedding <=> $1::%2$s) + 0 AS distance
            FROM cbir.%1$I AS e
            WHERE %3$s AND e.image_id <> ALL($4)
            ORDER BY distance, e.image_id
            LIMIT $2
        ) AS nearest',
        (encoder).table_name, CASE (encoder).precision WHEN 'half' THEN 'halfvec' ELSE 'vector' END,
        CASE
            -- The result of a subquery is looked up by key; a long list would make the planner process each item.
            WHEN passing IS NOT NULL THEN 'e.image_id = ANY((SELECT $5)::bigint [])'
            WHEN filtered OR cbir_internal.rows_are_restricted()
                THEN 'e.image_id IN (SELECT m.image_id FROM cbir_internal.matching_image($3) AS m)'
            ELSE 'TRUE'
        END
    )
        INTO ids, distances
        USING query, k, filter, left_out, passing;
END
$$;

COMMENT ON FUNCTION cbir_internal.scan_images(
    cbir.encoder, vector, integer, cbir.image_filter, bigint[], bigint[]
) IS
'Returns the k nearest images that pass a filter, compared one by one.';
