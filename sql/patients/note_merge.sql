-- Title: Note in stored evaluations that patients changed
-- Description: Counts in search_run.merged_images, and likewise in probe_run, the images whose patient is about to
--   change. A list without the query's own patient may hold images that are the patient's now, so `cbirdb metrics` says
--   it, and cbir_internal.indexed_image refuses to derive figures from such a run.
-- Inputs: ids of images, before they move.
CREATE FUNCTION cbir_internal.note_merge(image_ids bigint[])
RETURNS void
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    run record;
    number bigint;
BEGIN
    FOR run IN
        SELECT r.*, e.table_name
        FROM cbir.search_run AS r
        INNER JOIN cbir.encoder AS e ON e.encoder_id = r.encoder_id
        ORDER BY r.run_id
    LOOP
        EXECUTE format(
            'SELECT count(DISTINCT p.image_id)
            FROM unnest(ARRAY[$1, $2]) AS s (split)
            CROSS JOIN LATERAL cbir_internal.protocol_image($3, s.split, $4, $5) AS p
            INNER JOIN cbir.%I AS e ON e.image_id = p.image_id
            WHERE p.image_id = ANY ($6)', run.table_name
        ) INTO number
        USING run.query_split, run.index_split, run.protocol, run.datasets, run.split_seed, image_ids;
        UPDATE cbir.search_run AS r SET merged_images = r.merged_images + number
        WHERE r.run_id = run.run_id AND number > 0;
    END LOOP;
    FOR run IN
        SELECT r.*, e.table_name
        FROM cbir.probe_run AS r
        INNER JOIN cbir.encoder AS e ON e.encoder_id = r.encoder_id
        ORDER BY r.probe_id
    LOOP
        EXECUTE format(
            'SELECT count(*)
            FROM unnest(''{train,val,test}''::text[]) AS s (split)
            CROSS JOIN LATERAL cbir_internal.protocol_image(''paper'', s.split, $1, $2) AS p
            INNER JOIN cbir.%I AS e ON e.image_id = p.image_id
            WHERE p.image_id = ANY ($3)', run.table_name
        ) INTO number
        USING run.datasets, run.split_seed, image_ids;
        UPDATE cbir.probe_run AS r SET merged_images = r.merged_images + number
        WHERE r.probe_id = run.probe_id AND number > 0;
    END LOOP;
END
$$;

COMMENT ON FUNCTION cbir_internal.note_merge(bigint[]) IS
'Counts in each stored evaluation and linear probe the images whose patient is about to change.';
