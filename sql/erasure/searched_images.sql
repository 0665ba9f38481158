-- Title: Images that a row of the audit names
-- Description: Returns the query image, the images that were returned, and those of the filter, at any depth: rows of
--   older versions hold lists of lists, because callers gave arrays of several dimensions. It cannot fail, because an
--   unreadable row would block every erasure.
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
'Returns the ids of the images that a row of cbir.search_audit names.';
