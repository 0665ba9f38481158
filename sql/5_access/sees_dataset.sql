-- Title: Whether row-level security lets a role see a dataset
-- Description: What cbir.tenant_condition says of cbir.dataset, for functions that run as the owner and so are under no
--   policy themselves. The dataset need not be there yet.
-- Inputs: the name of a role, such as the one that acts (see cbir.acting_role); a dataset's name.
CREATE FUNCTION cbir.sees_dataset(role_name text, dataset text)
RETURNS boolean
LANGUAGE sql
STABLE
SET search_path FROM CURRENT
AS $$
SELECT
    NOT EXISTS (SELECT FROM cbir.setting AS s WHERE s.name = 'row_security' AND s.enabled)
    OR EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = $1 AND (r.rolsuper OR r.rolbypassrls))
    OR EXISTS (
        SELECT FROM pg_class AS c
        WHERE c.oid = 'cbir.image'::regclass AND pg_has_role($1::name, c.relowner, 'USAGE')
    )
    OR EXISTS (
        SELECT FROM pg_roles AS r
        WHERE
            pg_has_role($1::name, r.oid, 'USAGE')
            AND (
                r.rolname = 'cbir_admin'
                OR r.rolname IN (SELECT a.role_name FROM cbir.dataset_access AS a WHERE a.dataset = $2)
            )
    )
$$;

COMMENT ON FUNCTION cbir.sees_dataset(text, text) IS
'Whether row-level security lets a role see the rows of a dataset; without it everybody does.';
