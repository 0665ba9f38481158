-- Title: Pad a list's hits to the length k
-- Description: Returns the hits with the last number repeated up to k. A list is shorter than k if fewer images are
--   indexed, or some were erased. Beyond its end no relevant image is found, so the last number stays.
-- Inputs: hits[i] = relevant images among the first i, and k.
CREATE FUNCTION cbir_internal.padded(hits smallint[], k integer)
RETURNS smallint[]
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
AS $$
SELECT CASE
    WHEN cardinality($1) = $2 THEN $1
    ELSE $1 || array_fill(coalesce($1[cardinality($1)], 0::smallint), ARRAY[$2 - cardinality($1)])
END
$$;

COMMENT ON FUNCTION cbir_internal.padded(smallint[], integer) IS
'Returns a list''s numbers of relevant images, with the last one repeated up to k.';
