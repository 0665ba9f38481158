-- Title: Test if row-level security hides rows from a role
-- Description: Returns TRUE if row-level security hides rows from the role. A search then compares exactly, for two
--   reasons: a walk through a vector index meets rows before row-level security removes them, so it may return too few;
--   and its duration reveals what others hold. The result is FALSE without row-level security, and for superusers,
--   roles with BYPASSRLS, and members of cbir_admin and of the owner. The policies use the same rule,
--   unrestricted_condition.
-- Inputs: the name of a role; by default the acting role.
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
'Returns TRUE if row-level security hides rows of some datasets from a role, by default the acting one.';
