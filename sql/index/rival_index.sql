-- Title: Find another index that the planner might use
-- Description: Returns an index that competes with the one in use. For the order that a search asks for, the planner
--   takes any valid index, but the settings of a walk fit only one. Two exist for a moment at the end of a rebuild, and
--   until the next build if that end was interrupted. While this function returns a name, searches compare exactly. No
--   walk uses a partial index, so partial indexes do not count.
-- Inputs: the vector index in use.
-- Returns: another index of the same table, column and order; NULL if there is none.
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
    -- HNSW and IVFFlat give their operator classes the same names.
    AND other_order.opcname = used_order.opcname
    AND other.indisvalid
    AND other.indpred IS NULL
$$;

COMMENT ON FUNCTION cbir_internal.rival_index(regclass) IS
'Returns another valid index that searches might use in place of the one in use; NULL if there is none.';
