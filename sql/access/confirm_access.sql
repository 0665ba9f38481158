-- Title: Confirm who sees which dataset after a restore
-- Description: A row of cbir.dataset_access counts only while the role has the OID that it had when the row was made.
--   In another cluster, or after a role was made again, an administrator looks at the names and confirms them here.
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
'Makes rows of cbir.dataset_access count for the roles that have these names now; returns the rows it changed.';
