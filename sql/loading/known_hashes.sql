-- Title: Find which contents of files are in the catalogue already
-- Description: Of the datasets that the caller sees, whichever they are.
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
'Those of these SHA-256 hashes that are an image''s already.';
