-- Title: Switch row-level security on or off
-- Description: For every table with rows of a dataset, in one transaction; embedding tables that are made later follow.
--     INSERT INTO cbir.dataset_access (role_name, dataset) VALUES ('site_a', 'chest_a');
--     SELECT cbir.set_row_security(TRUE);
--   Must be called by the schema's owner, such as a member of cbir_admin.
-- Inputs: whether it is on.
CREATE FUNCTION cbir.set_row_security(enabled boolean)
RETURNS void
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
BEGIN
    UPDATE cbir.setting AS s
    SET enabled = set_row_security.enabled, changed_at = now(), changed_by = session_user
    WHERE s.name = 'row_security' AND s.enabled IS DISTINCT FROM set_row_security.enabled;
    PERFORM cbir.protect_table(c.oid, set_row_security.enabled)
    FROM pg_class AS c
    WHERE c.relnamespace = 'cbir'::regnamespace AND c.relkind = 'r'
    ORDER BY c.relname;
END
$$;

REVOKE ALL ON FUNCTION cbir.set_row_security(boolean) FROM public;

COMMENT ON FUNCTION cbir.set_row_security(boolean) IS
'Switches row-level security per dataset on or off; what each role sees is in cbir.dataset_access.';
