-- Title: Put one table under row-level security, or take it from under it
-- Description: Forced, so that it binds the owner too; policies name who sees all: the owner and cbir_admin. Everybody
--   else sees what cbir.tenant_condition says, that is nothing without a row in cbir.dataset_access, and keeps to
--   cbir.tenant_check when it writes. cbir_ingest also sees all labels, whose names are unique across datasets, and
--   failures that belong to no dataset.
-- Inputs: a table of schema cbir; whether row-level security is on.
CREATE FUNCTION cbir.protect_table(tab regclass, enabled boolean)
RETURNS void
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    name constant text := (SELECT c.relname FROM pg_class AS c WHERE c.oid = tab);
    owner constant text := (SELECT pg_get_userbyid(c.relowner) FROM pg_class AS c WHERE c.oid = tab);
    condition constant text := cbir.tenant_condition(name);
    roles constant text[] := ARRAY(SELECT r.rolname FROM pg_roles AS r WHERE r.rolname IN ('cbir_admin', 'cbir_ingest'));
    more constant text := CASE name WHEN 'label' THEN 'TRUE' WHEN 'failure' THEN 'dataset_id IS NULL' END;
BEGIN
    IF condition IS NULL THEN
        RETURN;
    END IF;
    EXECUTE format('DROP POLICY IF EXISTS cbir_owner ON %s', tab);
    EXECUTE format('DROP POLICY IF EXISTS cbir_tenant ON %s', tab);
    EXECUTE format('DROP POLICY IF EXISTS cbir_ingest ON %s', tab);
    IF NOT enabled THEN
        EXECUTE format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY', tab);
        RETURN;
    END IF;
    EXECUTE format(
        'CREATE POLICY cbir_owner ON %s TO %I%s USING (TRUE) WITH CHECK (TRUE)',
        tab, owner, CASE WHEN 'cbir_admin' = ANY (roles) AND owner <> 'cbir_admin' THEN ', cbir_admin' ELSE '' END
    );
    EXECUTE format(
        'CREATE POLICY cbir_tenant ON %s USING (%s) WITH CHECK (%s)',
        tab, condition, concat_ws(' AND ', condition, cbir.tenant_check(name))
    );
    IF more IS NOT NULL AND 'cbir_ingest' = ANY (roles) THEN
        EXECUTE format('CREATE POLICY cbir_ingest ON %s TO cbir_ingest USING (%s) WITH CHECK (%2$s)', tab, more);
    END IF;
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', tab);
END
$$;

COMMENT ON FUNCTION cbir.protect_table(regclass, boolean) IS
'Makes or removes the policies of one table, and switches its row-level security.';
