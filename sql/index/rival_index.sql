-- Title: Another index that a walk might take
-- Description: The planner takes any valid index for the order that a search asks for, and the settings of a walk fit
--   one. There are two for a moment at the end of a rebuild, and until the next build where that end was interrupted:
--   while this is not NULL, searches compare exactly. An index with a condition is taken by no walk.
-- Inputs: the vector index in use.
-- Returns: another one of the same table, column and order; NULL: there is none.
CREATE FUNCTION cbir_internal.rival_index(vector_index regclass)
RETURNS text
LANGUAGE sql
STABLE
SET search_path FROM CURRENT
AS $$
SELECT min(format('%I.%I', named.relnamespace::regnamespace, named.relname))
FROM pg_index AS used
INNER JOIN pg_opclass AS used_order ON used_order.oid = used.indclass[0]
INNER JOIN pg_index AS other
    ON other.indrelid = used.indrelid AND other.indexrelid <> used.indexrelid AND other.indkey[0] = used.indkey[0]
INNER JOIN pg_class AS named ON named.oid = other.indexrelid
INNER JOIN pg_opclass AS other_order ON other_order.oid = other.indclass[0]
WHERE
    used.indexrelid = vector_index
    -- The same of HNSW and IVFFlat.
    AND other_order.opcname = used_order.opcname
    AND other.indisvalid
    AND other.indpred IS NULL
$$;

COMMENT ON FUNCTION cbir_internal.rival_index(regclass) IS
'Another valid index that searches might use in place of the one in use; NULL: there is none.';
