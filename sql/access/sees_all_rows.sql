-- Title: Test if a role sees the rows of all datasets
-- Description: Returns the opposite of rows_are_restricted. Monitoring that counts everybody's rows and bytes is shown
--   only if this is TRUE.
-- Inputs: the name of a role; by default the acting role.
CREATE FUNCTION cbir_internal.sees_all_rows(role_name text DEFAULT cbir_internal.acting_role())
RETURNS boolean
LANGUAGE sql
STABLE
SET search_path FROM CURRENT
AS $$
SELECT NOT cbir_internal.rows_are_restricted($1)
$$;

COMMENT ON FUNCTION cbir_internal.sees_all_rows(text) IS
'Returns TRUE if row-level security lets a role (by default the acting one) see the rows of all datasets.';
