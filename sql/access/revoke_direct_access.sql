-- Title: Revoke rights that bypass the security boundary
-- Description: Revokes each right on tables and inner functions that a hospital has granted, and names it in a notice.
--   Under row-level security only administrators have rights on tables. Readers have rights only on views and on
--   functions for readers. A role that may read a table itself can find hidden values by the counts that EXPLAIN
--   ANALYZE shows. Rights that cbirdb's own roles need stay (see grant_table).
CREATE FUNCTION cbir_internal.revoke_direct_access()
RETURNS void
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    held record;
BEGIN
    FOR held IN
        WITH object AS (
            SELECT 'TABLE' AS kind, format('cbir.%I', c.relname) AS name, c.relowner AS owner, c.relacl AS acl, '' AS columns
            FROM pg_class AS c
            WHERE c.relnamespace = 'cbir'::regnamespace AND c.relkind IN ('r', 'p')
            UNION ALL
            SELECT 'TABLE', format('cbir.%I', c.relname), c.relowner, a.attacl, format(' (%I)', a.attname)
            FROM pg_class AS c
            INNER JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attacl IS NOT NULL
            WHERE c.relnamespace = 'cbir'::regnamespace AND c.relkind IN ('r', 'p')
            UNION ALL
            SELECT 'FUNCTION', p.oid::regprocedure::text, p.proowner, p.proacl, ''
            FROM cbir_internal.function_audience() AS f
            INNER JOIN pg_proc AS p ON p.oid = f.routine
            WHERE f.audience IN ('inner', 'owner', 'admin', 'ingest', 'loader')
        )

        SELECT DISTINCT
            o.kind, o.name, o.columns, a.privilege_type, g.rolname,
            CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(g.rolname) END AS grantee
        FROM object AS o
        CROSS JOIN LATERAL aclexplode(o.acl) AS a
        LEFT JOIN pg_roles AS g ON g.oid = a.grantee
        WHERE
            a.grantee <> o.owner
            AND (
                g.rolname IS NULL
                OR g.rolname NOT IN ('cbir_reader', 'cbir_ingest', 'cbir_admin', 'cbir_auditor', 'cbir_search')
                OR (g.rolname IN ('cbir_reader', 'cbir_ingest') AND o.kind = 'TABLE')
            )
        ORDER BY o.kind, o.name, grantee, a.privilege_type
    LOOP
        EXECUTE format(
            'REVOKE %s%s ON %s %s FROM %s CASCADE', held.privilege_type, held.columns, held.kind, held.name, held.grantee
        );
        IF held.rolname IS NULL OR held.rolname NOT IN ('cbir_reader', 'cbir_ingest') THEN
            RAISE NOTICE 'revoked: % on % from %', held.privilege_type || held.columns, held.name, held.grantee;
        END IF;
    END LOOP;
END
$$;

COMMENT ON FUNCTION cbir_internal.revoke_direct_access() IS
'Revokes rights on tables and inner functions that a hospital has granted, and names each in a notice.';
