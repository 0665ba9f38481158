-- Title: Switch row-level security of one table
-- Description: Makes or removes two policies. Row-level security is forced, so that it binds the owner too.
--     cbir_owner   Code that runs as the owner sees all rows: erasure, the audit's guard and triggers, whoever calls.
--                  It judges current_user, so that a view of the owner's shows its reader only what the reader may see.
--     cbir_tenant  Everybody else: all rows for roles that unrestricted_condition names, else those of
--                  tenant_condition, which are none without a row in cbir.dataset_access. Writing must also pass
--                  tenant_check.
-- Inputs: a table of schema cbir; TRUE to switch row-level security on.
CREATE FUNCTION cbir_internal.protect_table(tab regclass, enabled boolean)
RETURNS void
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    name constant text := (SELECT c.relname FROM pg_class AS c WHERE c.oid = tab);
    owner constant text := (SELECT pg_get_userbyid(c.relowner) FROM pg_class AS c WHERE c.oid = tab);
    condition constant text := cbir_internal.tenant_condition(name);
    own_code constant text := format(
        '(SELECT pg_catalog.pg_has_role(current_user, c.relowner, ''USAGE'') FROM pg_catalog.pg_class AS c'
        ' WHERE c.oid = %L::pg_catalog.regclass)', format('cbir.%I', name)
    );
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
    EXECUTE format('CREATE POLICY cbir_owner ON %1$s TO %2$I USING (%3$s) WITH CHECK (%3$s)', tab, owner, own_code);
    EXECUTE format(
        'CREATE POLICY cbir_tenant ON %1$s USING (%2$s OR (%3$s)) WITH CHECK (%2$s OR (%4$s))',
        tab, cbir_internal.unrestricted_condition(), condition,
        concat_ws(' AND ', '(' || condition || ')', cbir_internal.tenant_check(name))
    );
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', tab);
END
$$;

COMMENT ON FUNCTION cbir_internal.protect_table(regclass, boolean) IS
'Makes or removes the policies of one table, and switches its row-level security.';
