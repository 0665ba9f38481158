-- Title: Modified precision at N
-- Description: Returns the share of relevant images among the first n, with n = min(N, number of relevant indexed
--   images). The result is NULL if there is no relevant one (0/0). If a list is shorter than n, the missing images
--   count as not relevant.
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
'Returns the share of relevant images among the first min(N, relevant_count): the paper''s precision at N.';
