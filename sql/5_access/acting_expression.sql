-- Title: The acting role, as an expression for policies
-- Description: The same as cbir.acting_role(), of built-in functions alone: a policy that called a function of ours
--   would keep it from being dropped.
CREATE FUNCTION cbir.acting_expression()
RETURNS text
LANGUAGE sql
IMMUTABLE
SET search_path FROM CURRENT
AS $$
SELECT 'coalesce(nullif(pg_catalog.current_setting(''role''), ''none''), session_user)::name'
$$;

COMMENT ON FUNCTION cbir.acting_expression() IS
'SQL text that names the role of SET ROLE, else the login, also within functions that run as their owner.';
