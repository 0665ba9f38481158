-- Title: The acting role
-- Description: Returns the role of SET ROLE, else the login. Functions that run as their owner need it, because
--   current_user is the owner there.
CREATE FUNCTION cbir_internal.acting_role()
RETURNS text
LANGUAGE sql
STABLE
-- Without this, a caller could shadow current_setting with a function of his own, from a view.
SET search_path FROM CURRENT
AS $$
SELECT coalesce(nullif(current_setting('role'), 'none'), session_user)
$$;

COMMENT ON FUNCTION cbir_internal.acting_role() IS
'Returns the role of SET ROLE, else the login, also within functions that run as their owner.';
