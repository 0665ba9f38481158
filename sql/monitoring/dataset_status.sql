-- Title: Contents of each dataset
-- Description: Counts images and labels of the datasets that the acting role sees.
CREATE FUNCTION cbir.dataset_status()
RETURNS TABLE (dataset text, reader text, images bigint, labels bigint)
LANGUAGE plpgsql
STABLE
SET search_path FROM CURRENT
AS $$
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
BEGIN
    RETURN QUERY
    SELECT
        d.name, d.reader, count(i.image_id),
        (
            SELECT count(DISTINCT il.label_id)
            FROM cbir.image_label AS il
            INNER JOIN cbir.image AS x ON x.image_id = il.image_id
            WHERE x.dataset_id = d.dataset_id
        )
    FROM cbir.dataset AS d
    LEFT JOIN cbir.image AS i ON i.dataset_id = d.dataset_id
    GROUP BY d.dataset_id
    ORDER BY d.name;
END
$$;

COMMENT ON FUNCTION cbir.dataset_status() IS
'Counts the images and labels of each dataset.';
