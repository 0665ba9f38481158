-- Title: Encoders whose embedding table exists
-- Description: Returns the encoders for every loop over their tables. If somebody has dropped an encoder's table, that
--   must not stop an erasure or a search for everybody.
CREATE FUNCTION cbir_internal.embedded_encoder()
RETURNS SETOF cbir.encoder
LANGUAGE sql
STABLE
SET search_path FROM CURRENT
AS $$
SELECT e.*
FROM cbir.encoder AS e
INNER JOIN pg_class AS c ON c.relname = e.table_name AND c.relnamespace = 'cbir'::regnamespace AND c.relkind = 'r'
WHERE e.table_name ~ '^embedding_[a-z0-9_]{1,49}$'
ORDER BY e.name
$$;

COMMENT ON FUNCTION cbir_internal.embedded_encoder() IS
'Returns the rows of cbir.encoder whose embedding table exists, ordered by name.';
