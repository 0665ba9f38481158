-- Title: Grant on one table the rights that each role needs
-- Description: Grants what table_privilege lists. Other grants that a hospital has made stay. It revokes rights that
--   cbirdb's own roles had and no longer need.
-- Inputs: a table or view of schema cbir.
CREATE FUNCTION cbir_internal.grant_table(tab regclass)
RETURNS void
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    name constant text := (SELECT c.relname FROM pg_class AS c WHERE c.oid = tab);
    is_view constant boolean := (SELECT c.relkind = 'v' FROM pg_class AS c WHERE c.oid = tab);
    protected constant boolean := EXISTS (SELECT FROM cbir.setting AS s WHERE s.name = 'row_security' AND s.enabled);
    rights record;
BEGIN
    FOR rights IN
        SELECT DISTINCT g.rolname
        FROM pg_class AS c
        CROSS JOIN LATERAL aclexplode(c.relacl) AS a
        INNER JOIN pg_roles AS g ON g.oid = a.grantee
        WHERE
            c.oid = tab AND a.grantee <> c.relowner
            AND g.rolname IN ('cbir_reader', 'cbir_ingest', 'cbir_auditor', 'cbir_search')
            AND NOT EXISTS (
                SELECT FROM cbir_internal.table_privilege(name, is_view, protected) AS p
                WHERE p.grantee = g.rolname AND p.privilege = a.privilege_type
            )
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %I', tab, rights.rolname);
    END LOOP;
    FOR rights IN SELECT p.grantee, p.privilege FROM cbir_internal.table_privilege(name, is_view, protected) AS p LOOP
        EXECUTE format('GRANT %s ON %s TO %I', rights.privilege, tab, rights.grantee);
    END LOOP;
END
$$;

COMMENT ON FUNCTION cbir_internal.grant_table(regclass) IS
'Grants on one table or view the rights that each of cbirdb''s roles needs.';
