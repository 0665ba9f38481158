-- Title: Test if row-level security lets a role see a dataset
-- Description: Returns what tenant_condition says about cbir.dataset. Functions that run as the owner use it, because
--   no policy applies to them. The dataset need not exist yet.
-- Inputs: the name of a role, such as the acting one (see acting_role); a dataset's name.
CREATE FUNCTION cbir_internal.sees_dataset(role_name text, dataset text)
RETURNS boolean
LANGUAGE sql
STABLE
SET search_path FROM CURRENT
AS $$
SELECT
    cbir_internal.sees_all_rows($1)
    OR EXISTS (
        SELECT FROM cbir.dataset_access AS a
        INNER JOIN pg_roles AS r ON r.rolname = a.role_name AND r.oid = a.role_oid
        WHERE a.dataset = $2 AND pg_has_role($1::name, r.oid, 'USAGE')
    )
$$;

COMMENT ON FUNCTION cbir_internal.sees_dataset(text, text) IS
'Returns TRUE if row-level security lets a role see the rows of a dataset; TRUE for everybody if it is off.';
