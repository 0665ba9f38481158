-- Title: The first names of a list, and how many more there are
-- Description: What a hint says of what there is. An error that lists ten thousand labels is not read.
-- Inputs: names, in the order in which they are to be said.
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
'The first twenty names of a list and how many more there are, for the hint of an error; NULL when there is none.';
