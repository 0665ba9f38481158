-- Title: Whether the caller sees the rows of all datasets
-- Description: Without row-level security everybody does; under it, the owner and cbir_admin. What counts everybody's
--   rows and bytes (7_monitoring) is shown to them alone.
CREATE FUNCTION cbir.sees_all_rows()
RETURNS boolean
LANGUAGE sql
STABLE
SET search_path FROM CURRENT
AS $$
SELECT
    NOT cbir.rows_are_restricted()
    OR EXISTS (
        SELECT FROM pg_class AS c WHERE c.oid = 'cbir.image'::regclass AND pg_has_role(c.relowner, 'USAGE')
    )
    OR EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = 'cbir_admin' AND pg_has_role(r.oid, 'USAGE'))
$$;

COMMENT ON FUNCTION cbir.sees_all_rows() IS
'Whether row-level security lets the caller see the rows of all datasets.';
