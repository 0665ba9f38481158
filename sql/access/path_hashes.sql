-- Title: Hashes of a path
-- Description: Returns SHA-256 of a path and then of the folders above it, the nearest first, in hexadecimal digits.
-- Inputs: an absolute path without a slash at its end.
CREATE FUNCTION cbir_internal.path_hashes(path text)
RETURNS text[]
LANGUAGE sql
IMMUTABLE
SET search_path FROM CURRENT
AS $$
SELECT
    array_agg(
        encode(sha256(convert_to(coalesce(nullif(array_to_string(p.parts[1:n.depth], '/'), ''), '/'), 'UTF8')), 'hex')
        ORDER BY n.depth DESC
    )
FROM
    (SELECT string_to_array(rtrim($1, '/'), '/') AS parts) AS p,
    LATERAL generate_series(1, greatest(1, cardinality(p.parts))) AS n (depth)
$$;

COMMENT ON FUNCTION cbir_internal.path_hashes(text) IS
'Returns hashes of a path and of the folders above it.';
