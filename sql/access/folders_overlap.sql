-- Title: Compare two folders
-- Description: Returns TRUE if the folders are the same or one holds the other. Paths are absolute, without a slash at
--   their end.
-- Inputs: two paths.
CREATE FUNCTION cbir_internal.folders_overlap(a text, b text)
RETURNS boolean
LANGUAGE sql
IMMUTABLE
SET search_path FROM CURRENT
AS $$
SELECT $1 = $2 OR starts_with($1, rtrim($2, '/') || '/') OR starts_with($2, rtrim($1, '/') || '/')
$$;

COMMENT ON FUNCTION cbir_internal.folders_overlap(text, text) IS
'Returns TRUE if two folders are the same or one holds the other.';
