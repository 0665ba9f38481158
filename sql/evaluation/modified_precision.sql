-- Title: Modified precision at N
-- Description: With n = min(N, number of relevant indexed images), the share of relevant images among the first n. NULL
--   where there is no relevant one (0/0). A list shorter than n counts what it has.
-- Reference: the paper's authors' code (MIC-DKFZ/foundation-models-for-cbmir).
-- Inputs: hits[i] = relevant images among the first i, N, and the number of relevant indexed images.
CREATE FUNCTION cbir_internal.modified_precision(hits smallint[], n integer, relevant_count integer)
RETURNS double precision
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
AS $$
SELECT coalesce($1[least($2, $3, cardinality($1))], 0)::double precision / nullif(least($2, $3), 0)
$$;

COMMENT ON FUNCTION cbir_internal.modified_precision(smallint[], integer, integer) IS
'Share of relevant images among the first min(N, relevant_count): the paper''s precision at N.';
