-- Title: Whether a role sees the rows of all datasets
-- Description: The opposite of rows_are_restricted. What counts everybody's rows and bytes (monitoring) is shown
--   to those for whom this is true alone.
-- Inputs: the name of a role; by default the one that acts.
CREATE FUNCTION cbir_internal.sees_all_rows(role_name text DEFAULT cbir_internal.acting_role())
RETURNS boolean
LANGUAGE sql
STABLE
SET search_path FROM CURRENT
AS $$
SELECT NOT cbir_internal.rows_are_restricted($1)
$$;

COMMENT ON FUNCTION cbir_internal.sees_all_rows(text) IS
'Whether row-level security lets a role (by default the acting one) see the rows of all datasets.';
