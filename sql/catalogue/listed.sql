-- Title: First names of a list, and the number of the others
-- Description: Returns a list for a hint. Nobody reads an error that lists ten thousand labels.
-- Inputs: names, in the order in which they should appear.
CREATE FUNCTION cbir_internal.listed(names text[])
RETURNS text
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
AS $$
SELECT nullif(array_to_string(($1)[:20], ', '), '')
    || CASE WHEN cardinality($1) > 20 THEN format(' and %s more', cardinality($1) - 20) ELSE '' END
$$;

COMMENT ON FUNCTION cbir_internal.listed(text[]) IS
'Returns the first twenty names of a list and the number of the others, for the hint of an error; NULL if there is'
' none.';
