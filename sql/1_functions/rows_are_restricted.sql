-- Title: Whether row-level security hides images from whoever asks
-- Description: A walk through a vector index meets rows before row-level security removes them: it may come back with
--   too few, and how long it takes gives away what others hold. Where this is true a search compares exactly.
CREATE FUNCTION cbir.rows_are_restricted()
RETURNS boolean
LANGUAGE sql
STABLE
SECURITY INVOKER
AS $$
SELECT row_security_active('cbir.image')
$$;

COMMENT ON FUNCTION cbir.rows_are_restricted() IS
'Whether row-level security applies to cbir.image for the current role; searches are exact then.';
