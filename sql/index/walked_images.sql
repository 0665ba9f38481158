-- Title: Find images by a walk through a vector index
-- Description: Returns the nearest images that pass a filter. One step finds the nearest rows; the next step tests them
--   one by one. With a join, a condition or a second sort key beside the distance, the planner would not use the index.
-- Inputs: an encoder; a vector of length 1; k; a filter, and the ids of its label and of all labels below it; images to
--   leave out; nearest_first, candidates, kept and settings as index_walk returns them.
-- Returns: the k nearest images that pass, and their distances (NULL if there is none); the number that passed, at most
--   kept.
CREATE FUNCTION cbir_internal.walked_images(
    encoder cbir.encoder,
    query vector,
    k integer,
    filter cbir.image_filter,
    label_ids bigint[],
    left_out bigint[],
    nearest_first text,
    candidates integer,
    kept integer,
    settings text[],
    OUT ids bigint[],
    OUT distances double precision[],
    OUT met integer
)
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    -- Filters that only the image row can answer.
    others cbir.image_filter := filter;
    previous text[] := cbir_internal.swap_settings(settings);
BEGIN
    others.image_ids := NULL;
    others.label := NULL;
    EXECUTE format(
        'SELECT
            (array_agg(image_id ORDER BY distance, image_id))[:$2],
            (array_agg(distance ORDER BY distance, image_id))[:$2],
            count(*)
        FROM (
            SELECT c.image_id, c.embedding <=> c.asked AS distance
            FROM (
                SELECT e.image_id, e.embedding, q.embedding AS asked
                FROM cbir.%1$I AS e, (SELECT $1::%2$s(%3$s) AS embedding) AS q
                ORDER BY %4$s
                LIMIT $5
            ) AS c
            WHERE c.image_id <> ALL($4) AND %5$s AND %6$s AND %7$s
            LIMIT $6
        ) AS compared',
        (encoder).table_name, CASE (encoder).precision WHEN 'half' THEN 'halfvec' ELSE 'vector' END, (encoder).dim,
        nearest_first,
        -- Inside CASE, the planner does not estimate each array element; the executor builds a hash table of them.
        CASE WHEN filter.image_ids IS NULL THEN 'TRUE' ELSE 'CASE WHEN c.image_id = ANY($7) THEN TRUE END' END,
        -- A scalar subquery is evaluated per candidate; any other form would first read all matches. Testing label ids
        -- takes a third of the time of joining image, image labels and label names.
        CASE WHEN filter.label IS NULL THEN 'TRUE' ELSE
            '(SELECT TRUE FROM cbir.image_label AS il WHERE il.image_id = c.image_id'
            ' AND il.label_id = ANY((SELECT $8)::bigint[]) AND il.value = 1 LIMIT 1)'
        END,
        CASE WHEN (others IS NULL) IS FALSE
            THEN '(SELECT TRUE FROM cbir_internal.matching_image($3) AS m WHERE m.image_id = c.image_id)'
            ELSE 'TRUE'
        END
    )
        INTO ids, distances, met
        USING query, k, others, left_out, candidates, kept, filter.image_ids, label_ids;
    previous := cbir_internal.swap_settings(previous);
END
$$;

COMMENT ON FUNCTION cbir_internal.walked_images(
    cbir.encoder, vector, integer, cbir.image_filter, bigint[], bigint[], text, integer, integer, text[]
) IS
'Returns the k nearest images that pass a filter among the candidates of a walk through the vector index, and the'
' number that passed.';
