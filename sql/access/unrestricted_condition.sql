-- Title: Condition under which a role sees the rows of all datasets
-- Description: Returns the condition that every policy of row-level security begins with: the acting role (that of SET
--   ROLE, else the login) is a superuser, has BYPASSRLS, or is a member of cbir_admin or of the owner. It uses built-in
--   functions only, so that no policy depends on a function that an upgrade drops. It is a subquery without outer
--   references, which PostgreSQL evaluates once per statement.
CREATE FUNCTION cbir_internal.unrestricted_condition()
RETURNS text
LANGUAGE sql
IMMUTABLE
SET search_path FROM CURRENT
AS $$
SELECT format(
    '(SELECT EXISTS (SELECT FROM pg_catalog.pg_roles AS r'
    ' WHERE (r.rolname = %1$s AND (r.rolsuper OR r.rolbypassrls))'
    ' OR ((r.rolname = ''cbir_admin'''
    ' OR r.oid = (SELECT c.relowner FROM pg_catalog.pg_class AS c WHERE c.oid = ''cbir.image''::pg_catalog.regclass))'
    ' AND pg_catalog.pg_has_role(%1$s, r.oid, ''USAGE''))))',
    cbir_internal.acting_expression()
)
$$;

COMMENT ON FUNCTION cbir_internal.unrestricted_condition() IS
'Returns the part of every policy that lets administrators, superusers and roles with BYPASSRLS see all rows.';
