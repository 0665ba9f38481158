-- Title: The role that acts
-- Description: The one of SET ROLE, else the login. For functions that run as their owner, where current_user is the
--   owner.
CREATE FUNCTION cbir_internal.acting_role()
RETURNS text
LANGUAGE sql
STABLE
-- Else whoever calls it from a view could put a current_setting of his own in its way.
SET search_path FROM CURRENT
AS $$
SELECT coalesce(nullif(current_setting('role'), 'none'), session_user)
$$;

COMMENT ON FUNCTION cbir_internal.acting_role() IS
'The role of SET ROLE, else the login, also within functions that run as their owner.';
