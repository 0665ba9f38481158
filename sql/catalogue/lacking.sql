-- Title: Say in SQL that an image lacks an embedding
-- Description: For statements on the tables of several encoders, whose names are looked up here.
-- Inputs: encoders.
-- Returns: for each a condition on an image that is called i.
CREATE FUNCTION cbir_internal.lacking(encoders text[])
RETURNS text[]
LANGUAGE sql
STABLE
SET search_path FROM CURRENT
AS $$
SELECT coalesce(array_agg(
    format('NOT EXISTS (SELECT FROM cbir.%I AS e WHERE e.image_id = i.image_id)', cbir_internal.embedding_table(g.encoder))
    ORDER BY g.ordinality
), '{}')
FROM unnest($1) WITH ORDINALITY AS g (encoder, ordinality)
$$;

COMMENT ON FUNCTION cbir_internal.lacking(text[]) IS
'For each encoder the condition, in SQL, that image i lacks its embedding.';
