-- Title: Find hashes of files that are in the catalogue
-- Description: Returns hashes that an image of any dataset has, among the datasets that the caller sees.
-- Inputs: SHA-256 hashes of files.
CREATE FUNCTION cbir_internal.known_hashes(hashes bytea[])
RETURNS SETOF bytea
LANGUAGE plpgsql
STABLE
SET plan_cache_mode = force_custom_plan
SET search_path FROM CURRENT
AS $$
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
BEGIN
    RETURN QUERY
    SELECT DISTINCT i.sha256 FROM cbir.image AS i WHERE i.sha256 = ANY(hashes);
END
$$;

COMMENT ON FUNCTION cbir_internal.known_hashes(bytea[]) IS
'Returns those of the given SHA-256 hashes that an image has already.';
