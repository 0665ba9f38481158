-- Title: Expression that names the acting role in policies
-- Description: Returns an expression for the role of SET ROLE, else the login, as acting_role() does. It uses built-in
--   functions only: if a policy called one of cbirdb's functions, an upgrade could not drop that function. In code that
--   runs as a third role, the expression names that role. VACUUM, ANALYZE and similar commands run the functions of a
--   table's indexes as the table's owner, in the session of a superuser, whom policies would let see all.
CREATE FUNCTION cbir_internal.acting_expression()
RETURNS text
LANGUAGE sql
IMMUTABLE
SET search_path FROM CURRENT
AS $$
SELECT format('CASE WHEN current_user IN (''cbir_search'', %1$s) THEN %1$s ELSE current_user END', acting.role)
FROM (
    SELECT 'coalesce(nullif(pg_catalog.current_setting(''role''), ''none''), session_user)::name' AS role
) AS acting
$$;

COMMENT ON FUNCTION cbir_internal.acting_expression() IS
'Returns the SQL expression of the role that policies judge: the role of SET ROLE, else the login; in code of a third'
' role, that role.';
