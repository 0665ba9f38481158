-- Title: Which images a row of the audit names
-- Description: The image that was asked about, those that were returned, and those of its filter, however deep they lie
--   there: rows of older versions hold lists of lists, as arrays of several dimensions were given. Cannot fail: a row
--   that could not be read would stand in the way of every erasure.
-- Inputs: a row of cbir.search_audit.
CREATE FUNCTION cbir_internal.searched_images(entry cbir.search_audit)
RETURNS bigint[]
LANGUAGE sql
STABLE
SET search_path FROM CURRENT
AS $$
SELECT ARRAY(
    SELECT n.image_id FROM unnest((entry).returned || (entry).query_image_id) AS n (image_id)
    WHERE n.image_id IS NOT NULL
    UNION
    SELECT f.id::bigint
    FROM jsonb_path_query(
        jsonb_build_array((entry).filter -> 'image_ids', (entry).filter -> 'without_image'),
        'strict $.** ? (@.type() == "number" && @ == @.floor() && @.abs() < 9000000000000000000)'
    ) AS f (id)
)
$$;

COMMENT ON FUNCTION cbir_internal.searched_images(cbir.search_audit) IS
'Ids of the images that a row of cbir.search_audit names.';
