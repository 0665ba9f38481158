-- Title: Whether row-level security hides rows from a role
-- Description: A walk through a vector index meets rows before row-level security removes them: it may come back with
--   too few, and how long it takes gives away what others hold. Where this is true a search compares exactly. It is
--   false without row-level security, and of superusers, roles with BYPASSRLS, and members of cbir_admin and of the
--   owner: the same as unrestricted_condition, which the policies hold.
-- Inputs: the name of a role; by default the one that acts.
CREATE FUNCTION cbir_internal.rows_are_restricted(role_name text DEFAULT cbir_internal.acting_role())
RETURNS boolean
LANGUAGE sql
STABLE
SET search_path FROM CURRENT
AS $$
SELECT
    c.relrowsecurity
    AND NOT pg_has_role($1::name, c.relowner, 'USAGE')
    AND NOT EXISTS (
        SELECT FROM pg_roles AS r
        WHERE
            (r.rolname = $1 AND (r.rolsuper OR r.rolbypassrls))
            OR (r.rolname = 'cbir_admin' AND pg_has_role($1::name, r.oid, 'USAGE'))
    )
FROM pg_class AS c
WHERE c.oid = 'cbir.image'::regclass
$$;

COMMENT ON FUNCTION cbir_internal.rows_are_restricted(text) IS
'Whether row-level security hides rows of some datasets from a role, by default the acting one.';
