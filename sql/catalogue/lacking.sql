-- Title: SQL conditions that an image lacks embeddings
-- Description: Writes conditions for statements over the tables of several encoders. It looks the table names up. An
--   image that another one replaces lacks nothing.
-- Inputs: encoders.
-- Returns: for each encoder, a condition on an image with the alias i.
CREATE FUNCTION cbir_internal.lacking(encoders text[])
RETURNS text[]
LANGUAGE sql
STABLE
SET search_path FROM CURRENT
AS $$
SELECT coalesce(array_agg(
    format('i.replaced_by IS NULL AND NOT EXISTS (SELECT FROM cbir.%I AS e WHERE e.image_id = i.image_id)', cbir_internal.embedding_table(g.encoder))
    ORDER BY g.ordinality
), '{}')
FROM unnest($1) WITH ORDINALITY AS g (encoder, ordinality)
$$;

COMMENT ON FUNCTION cbir_internal.lacking(text[]) IS
'Returns for each encoder the SQL condition that image i lacks its embedding.';
