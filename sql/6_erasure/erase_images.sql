-- Title: Remove images from every table
-- Description: Their embeddings under every encoder, labels, stored neighbours, the failures that name their files, and
--   their ids in the search audit. Part of cbir.erase_patient, which says who may.
-- Inputs: ids of images.
CREATE FUNCTION cbir.erase_images(image_ids bigint[])
RETURNS jsonb
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    removed jsonb := cbir.erase_from_runs(image_ids);
    of_encoders jsonb := '{}';
    tab text;
    number bigint;
BEGIN
    FOR tab IN SELECT e.table_name FROM cbir.encoder AS e ORDER BY e.name LOOP
        EXECUTE format('DELETE FROM cbir.%I AS e WHERE e.image_id = ANY ($1)', tab) USING image_ids;
        GET DIAGNOSTICS number = ROW_COUNT;
        of_encoders := of_encoders || jsonb_build_object(tab, number);
    END LOOP;
    DELETE FROM cbir.failure AS f
    USING cbir.image AS i
    WHERE
        i.image_id = ANY (image_ids) AND f.source = i.source
        AND (f.dataset_id = i.dataset_id OR f.dataset_id IS NULL);
    GET DIAGNOSTICS number = ROW_COUNT;
    removed := removed || of_encoders || jsonb_build_object('failure', number);
    DELETE FROM cbir.image_label AS il WHERE il.image_id = ANY (image_ids);
    GET DIAGNOSTICS number = ROW_COUNT;
    removed := removed || jsonb_build_object('image_label', number);
    DELETE FROM cbir.image AS i WHERE i.image_id = ANY (image_ids);
    GET DIAGNOSTICS number = ROW_COUNT;
    removed := removed || jsonb_build_object('image', number);
    -- After the images: the audit's guard lets go of ids that name nothing.
    UPDATE cbir.search_audit AS a
    SET
        query_image_id = CASE WHEN a.query_image_id = ANY (image_ids) THEN NULL ELSE a.query_image_id END,
        returned = ARRAY(
            SELECT r.image_id FROM unnest(a.returned) WITH ORDINALITY AS r (image_id, rank)
            WHERE r.image_id <> ALL (image_ids) ORDER BY r.rank
        ),
        filter = CASE WHEN a.filter ? 'image_ids' THEN jsonb_set(a.filter, '{image_ids}', (
            SELECT coalesce(jsonb_agg(f.image_id ORDER BY f.rank), '[]')
            FROM jsonb_array_elements(a.filter -> 'image_ids') WITH ORDINALITY AS f (image_id, rank)
            WHERE f.image_id::bigint <> ALL (image_ids)
        )) ELSE a.filter END,
        erased_ids = a.erased_ids
        + (a.query_image_id IS NOT NULL AND a.query_image_id = ANY (image_ids))::integer
        + (SELECT count(*) FROM unnest(a.returned) AS r (image_id) WHERE r.image_id = ANY (image_ids))
        + (
            SELECT count(*) FROM jsonb_array_elements(coalesce(a.filter -> 'image_ids', '[]')) AS f (image_id)
            WHERE f.image_id::bigint = ANY (image_ids)
        )
    WHERE
        a.query_image_id = ANY (image_ids) OR a.returned && image_ids
        OR EXISTS (
            SELECT FROM jsonb_array_elements(coalesce(a.filter -> 'image_ids', '[]')) AS f (image_id)
            WHERE f.image_id::bigint = ANY (image_ids)
        );
    GET DIAGNOSTICS number = ROW_COUNT;
    RETURN removed || jsonb_build_object('search_audit_redacted', number);
END
$$;

REVOKE ALL ON FUNCTION cbir.erase_images(bigint[]) FROM public;

COMMENT ON FUNCTION cbir.erase_images(bigint[]) IS
'Removes images from every table; returns the number of rows by table.';
