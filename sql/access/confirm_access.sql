-- Title: Confirm after a restore who sees which dataset
-- Description: Updates the role OIDs in cbir.dataset_access. A row counts only while the role has the OID that it had
--   when the row was made. In another cluster, or after a role was created again, an administrator checks the names and
--   confirms them here.
-- Inputs: names of roles; NULL: all.
-- Returns: the rows that count from now on and did not before.
CREATE FUNCTION cbir.confirm_access(roles text[] DEFAULT NULL)
RETURNS SETOF cbir.dataset_access
LANGUAGE sql
SET search_path FROM CURRENT
AS $$
UPDATE cbir.dataset_access AS a
SET role_oid = r.oid
FROM pg_roles AS r
WHERE r.rolname = a.role_name AND a.role_oid IS DISTINCT FROM r.oid AND ($1 IS NULL OR a.role_name = any($1))
RETURNING a.*
$$;

COMMENT ON FUNCTION cbir.confirm_access(text[]) IS
'Updates rows of cbir.dataset_access to count for the roles that have these names now; returns the changed rows.';
