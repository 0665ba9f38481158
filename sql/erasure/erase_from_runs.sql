-- Title: Remove images from stored evaluations
-- Description: Removes the results of the images as queries, and the images from the lists of other queries.
--   Neighbours, distances and hits close up, so that a list is as if the image had never been found, but shorter. The
--   number of relevant images decreases if the image was indexed. The remaining list is not the list of a new run,
--   because nothing moves up into the k-th place. The run therefore counts what it lost: search_run.erased_images,
--   erased_neighbours.
-- Inputs: ids of images that are still in the catalogue.
-- Returns: an object with the numbers of removed rows (search_result, search_result_label) and neighbours.
CREATE FUNCTION cbir_internal.erase_from_runs(image_ids bigint[])
RETURNS jsonb
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    run record;
    indexed bigint;
    queries bigint;
    labels bigint;
    neighbours bigint;
    removed_queries bigint := 0;
    removed_labels bigint := 0;
    removed_neighbours bigint := 0;
    -- Hits of the entries that stay, counted again; the same expression for both tables.
    kept constant text := '(
        SELECT coalesce(array_agg(k.hits ORDER BY k.rank), ''{}'') FROM (
            SELECT n.rank, (sum(t.hits[n.rank] - coalesce(t.hits[n.rank - 1], 0)) OVER (ORDER BY n.rank))::smallint AS hits
            FROM unnest(r.neighbour_ids) WITH ORDINALITY AS n (image_id, rank)
            WHERE n.image_id <> ALL ($1)
        ) AS k
    )';
BEGIN
    FOR run IN
        SELECT r.*, e.table_name
        FROM cbir.search_run AS r
        INNER JOIN cbir.encoder AS e ON e.encoder_id = r.encoder_id
        ORDER BY r.run_id
    LOOP
        DELETE FROM cbir.search_result_label AS l WHERE l.run_id = run.run_id AND l.query_image_id = ANY (image_ids);
        GET DIAGNOSTICS labels = ROW_COUNT;
        DELETE FROM cbir.search_result AS r WHERE r.run_id = run.run_id AND r.query_image_id = ANY (image_ids);
        GET DIAGNOSTICS queries = ROW_COUNT;
        -- Images that the run could find, by the definition that made the run.
        EXECUTE format(
            'CREATE TEMPORARY TABLE erased_indexed ON COMMIT DROP AS
            SELECT p.image_id, p.label_ids
            FROM cbir_internal.protocol_image($1, $2, $3, $4) AS p
            INNER JOIN cbir.%I AS e ON e.image_id = p.image_id
            WHERE p.image_id = ANY ($5)', run.table_name
        ) USING run.protocol, run.index_split, run.datasets, run.split_seed, image_ids;
        SELECT count(*) INTO indexed FROM pg_temp.erased_indexed;
        UPDATE cbir.search_result_label AS l SET relevant_count = l.relevant_count - lost.images
        FROM (
            SELECT of_label.label_id, count(*) AS images
            FROM pg_temp.erased_indexed AS x
            CROSS JOIN LATERAL unnest(x.label_ids) AS of_label (label_id)
            GROUP BY of_label.label_id
        ) AS lost
        WHERE l.run_id = run.run_id AND l.label_id = lost.label_id;
        UPDATE cbir.search_result AS r SET relevant_count = r.relevant_count - lost.images
        FROM (
            SELECT asked.query_image_id, count(*) AS images
            FROM (
                SELECT q.query_image_id, coalesce(nullif(array_agg(l.label_id), '{NULL}'), ARRAY[q.label_id]) AS label_ids
                FROM cbir.search_result AS q
                LEFT JOIN cbir.search_result_label AS l
                    ON l.run_id = q.run_id AND l.query_image_id = q.query_image_id
                WHERE q.run_id = run.run_id
                GROUP BY q.run_id, q.query_image_id
            ) AS asked
            INNER JOIN pg_temp.erased_indexed AS x ON x.label_ids && asked.label_ids
            GROUP BY asked.query_image_id
        ) AS lost
        WHERE r.run_id = run.run_id AND r.query_image_id = lost.query_image_id;
        DROP TABLE pg_temp.erased_indexed;
        -- The labels first: their hits are counted along the list as it still is.
        EXECUTE
            'UPDATE cbir.search_result_label AS t SET hits = ' || kept
            || ' FROM cbir.search_result AS r WHERE r.run_id = $2 AND r.neighbour_ids && $1'
            || ' AND t.run_id = r.run_id AND t.query_image_id = r.query_image_id'
            USING image_ids, run.run_id;
        SELECT count(*) INTO neighbours
        FROM cbir.search_result AS r
        CROSS JOIN LATERAL unnest(r.neighbour_ids) AS n (image_id)
        WHERE r.run_id = run.run_id AND n.image_id = ANY (image_ids);
        EXECUTE
            'UPDATE cbir.search_result AS t SET hits = ' || kept
            || ', distances = ARRAY('
            || '    SELECT r.distances[n.rank] FROM unnest(r.neighbour_ids) WITH ORDINALITY AS n (image_id, rank)'
            || '    WHERE n.image_id <> ALL ($1) ORDER BY n.rank)'
            || ', neighbour_ids = ARRAY('
            || '    SELECT n.image_id FROM unnest(r.neighbour_ids) WITH ORDINALITY AS n (image_id, rank)'
            || '    WHERE n.image_id <> ALL ($1) ORDER BY n.rank)'
            || ' FROM cbir.search_result AS r WHERE r.run_id = $2 AND r.neighbour_ids && $1'
            || ' AND t.run_id = r.run_id AND t.query_image_id = r.query_image_id'
            USING image_ids, run.run_id;
        UPDATE cbir.search_run AS r
        SET erased_images = r.erased_images + queries + indexed, erased_neighbours = r.erased_neighbours + neighbours
        WHERE r.run_id = run.run_id AND queries + indexed + neighbours > 0;
        removed_queries := removed_queries + queries;
        removed_labels := removed_labels + labels;
        removed_neighbours := removed_neighbours + neighbours;
    END LOOP;
    RETURN jsonb_build_object(
        'search_result', removed_queries, 'search_result_label', removed_labels, 'neighbours', removed_neighbours
    );
END
$$;

COMMENT ON FUNCTION cbir_internal.erase_from_runs(bigint[]) IS
'Removes images from stored evaluations, as queries and as neighbours; returns the number of each.';
