-- Title: Images that a walk through a vector index meets
-- Description: The nearest rows are found in a step of their own and tested one by one afterwards: a join, a condition
--   or a second sort key beside the distance would make the planner leave the index.
-- Inputs: an encoder; a vector of length 1; k; a filter, and the ids of its label and of those below it; images to
--   leave out; and as index_walk says: what to order by, how many candidates to test, how many of those that
--   pass to compare, what to set.
-- Returns: the k nearest of those that pass, and their distances, NULL when there is none; how many passed, at most as
--   many as were to be compared.
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
    -- What only the image itself tells.
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
        -- Inside CASE the planner does not look at each item; what executes it makes a hash table of them.
        CASE WHEN filter.image_ids IS NULL THEN 'TRUE' ELSE 'CASE WHEN c.image_id = ANY($7) THEN TRUE END' END,
        -- A scalar sub-query is looked up for each candidate; any other would read all matches first. By the label's
        -- ids that takes a third of what it takes by image, the image's labels and their names.
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
'The k nearest images that pass a filter among the candidates of a walk through the vector index, and how many passed.';
