-- Title: Sources that images of several datasets share
-- Description: Returns ambiguous sources. Files of vectors name images by their sources, so a source that two images
--   share does not identify one.
-- Inputs: names of datasets; NULL: all.
CREATE FUNCTION cbir_internal.repeated_sources(datasets text[] DEFAULT NULL)
RETURNS SETOF text
LANGUAGE plpgsql
STABLE
SET search_path FROM CURRENT
AS $$
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
BEGIN
    RETURN QUERY
    SELECT i.source
    FROM cbir.image AS i
    INNER JOIN cbir.dataset AS d ON d.dataset_id = i.dataset_id
    WHERE i.frame = 0 AND (datasets IS NULL OR d.name = ANY(datasets))
    GROUP BY i.source
    HAVING count(*) > 1;
END
$$;

COMMENT ON FUNCTION cbir_internal.repeated_sources(text[]) IS
'Returns the sources that images of several datasets share.';
