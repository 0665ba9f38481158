-- Title: The acting role, as an expression for policies
-- Description: That of SET ROLE, else the login, as acting_role() says, of built-in functions alone: a policy that
--   called a function of ours would keep it from being dropped. In code that runs as a third role, it is that role:
--   VACUUM, ANALYZE and the like of somebody's table run the functions of its indexes as that somebody, in the session
--   of a superuser, who would see all.
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
'SQL text that names whom policies judge: the role of SET ROLE, else the login; in code of a third role, that role.';
