-- Title: Words for codes of body parts
-- Description: Returns what users have written into cbir.body_part, for an ingest of DICOM.
CREATE FUNCTION cbir_internal.body_parts()
RETURNS TABLE (code text, anatomic_region text)
LANGUAGE plpgsql
STABLE
SET search_path FROM CURRENT
AS $$
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
BEGIN
    RETURN QUERY SELECT b.code, b.anatomic_region FROM cbir.body_part AS b;
END
$$;

COMMENT ON FUNCTION cbir_internal.body_parts() IS
'Returns the words for codes of body parts that users have added.';
