-- Title: Switch row-level security on or off
-- Description: Switches row-level security for every table that holds rows of a dataset, in one transaction. Embedding
--   tables that are created later follow.
--     INSERT INTO cbir.dataset_access (role_name, dataset) VALUES ('site_a', 'chest_a');
--     SELECT cbir.set_row_security(TRUE);
--   When it is on, readers have rights only on views and functions, which run as cbir_search. Without that role it
--   cannot be switched on. The schema's owner must call it, for example as a member of cbir_admin.
-- Inputs: TRUE to switch it on.
CREATE FUNCTION cbir.set_row_security(enabled boolean)
RETURNS void
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
BEGIN
    IF set_row_security.enabled AND NOT EXISTS (
        SELECT FROM pg_proc AS p
        INNER JOIN pg_roles AS r ON r.oid = p.proowner
        WHERE p.oid = 'cbir.similar_images'::regproc AND r.rolname = 'cbir_search' AND p.prosecdef
    ) THEN
        RAISE EXCEPTION 'row-level security needs the role cbir_search, which runs the searches' USING
            ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'A database administrator runs once: cbirdb db roles --script | psql. Then run: cbirdb db upgrade';
    END IF;
    UPDATE cbir.setting AS s
    SET enabled = set_row_security.enabled, changed_at = now(), changed_by = session_user
    WHERE s.name = 'row_security' AND s.enabled IS DISTINCT FROM set_row_security.enabled;
    PERFORM cbir_internal.protect_table(c.oid, set_row_security.enabled)
    FROM pg_class AS c
    WHERE c.relnamespace = 'cbir'::regnamespace AND c.relkind = 'r'
    ORDER BY c.relname;
    PERFORM cbir_internal.grant_table(c.oid)
    FROM pg_class AS c
    WHERE c.relnamespace = 'cbir'::regnamespace AND c.relkind = 'r' AND pg_has_role(c.relowner, 'USAGE');
    IF set_row_security.enabled THEN
        PERFORM cbir_internal.revoke_direct_access();
    END IF;
END
$$;

COMMENT ON FUNCTION cbir.set_row_security(boolean) IS
'Switches row-level security per dataset on or off; cbir.dataset_access lists what each role sees.';
