-- Title: Grant to cbirdb's roles the rights that they need
-- Description: Grants rights on the schemas, every table and view, and the functions (see function_audience). Every
--   `cbirdb db upgrade` calls it before hand_over. It skips roles that do not exist. Other grants that a hospital has
--   made stay, unless row-level security is on (see revoke_direct_access). The schema's owner must call it.
CREATE FUNCTION cbir_internal.grant_roles()
RETURNS void
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    rights record;
BEGIN
    FOR rights IN
        SELECT r.rolname AS grantee FROM pg_roles AS r
        WHERE r.rolname IN ('cbir_reader', 'cbir_ingest', 'cbir_admin', 'cbir_auditor', 'cbir_search')
    LOOP
        EXECUTE format('GRANT USAGE ON SCHEMA cbir TO %I', rights.grantee);
    END LOOP;
    -- A function that runs as its caller, or that the planner inlines into a query, looks up names as that role. To
    -- call a function, a role also needs EXECUTE.
    GRANT USAGE ON SCHEMA cbir_internal TO PUBLIC;
    PERFORM cbir_internal.grant_table(c.oid)
    FROM pg_class AS c
    WHERE
        c.relnamespace = 'cbir'::regnamespace AND c.relkind IN ('r', 'v')
        AND pg_has_role(c.relowner, 'USAGE')
        AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = c.oid AND d.deptype = 'e');
    FOR rights IN
        WITH reading AS (
            SELECT 'cbir_reader' AS grantee
            UNION
            -- Every role that may read images may search, also a role that a hospital has made. If functions run as
            -- their caller (no role cbir_search), it needs the inner functions as well.
            SELECT CASE a.grantee WHEN 0 THEN 'public' ELSE pg_get_userbyid(a.grantee) END
            FROM pg_class AS c
            CROSS JOIN LATERAL aclexplode(c.relacl) AS a
            WHERE
                c.oid IN ('cbir.image'::regclass, 'cbir.image_overview'::regclass)
                AND a.privilege_type = 'SELECT' AND a.grantee <> c.relowner
            UNION
            -- A view runs its functions as its reader.
            SELECT CASE a.grantee WHEN 0 THEN 'public' ELSE pg_get_userbyid(a.grantee) END
            FROM pg_class AS c
            CROSS JOIN LATERAL aclexplode(c.relacl) AS a
            WHERE
                c.relnamespace = 'cbir'::regnamespace AND c.relkind = 'v'
                AND (starts_with(c.relname, 'precision_by_') OR c.relname = 'pathology_against_anatomy')
                AND a.privilege_type = 'SELECT' AND a.grantee <> c.relowner
        ),

        wanted AS (
            SELECT f.routine, r.grantee
            FROM cbir_internal.function_audience() AS f
            CROSS JOIN reading AS r
            WHERE
                f.audience = 'reader'
                OR (f.audience = 'inner' AND NOT EXISTS (SELECT FROM pg_roles AS s WHERE s.rolname = 'cbir_search'))
            UNION
            SELECT f.routine, 'cbir_search' FROM cbir_internal.function_audience() AS f WHERE f.audience IN ('reader', 'loader', 'inner')
            UNION
            SELECT f.routine, 'cbir_ingest' FROM cbir_internal.function_audience() AS f WHERE f.audience IN ('ingest', 'loader')
            UNION
            SELECT f.routine, 'cbir_admin' FROM cbir_internal.function_audience() AS f WHERE f.audience = 'admin'
        )

        SELECT w.routine, CASE w.grantee WHEN 'public' THEN 'PUBLIC' ELSE quote_ident(w.grantee) END AS grantee
        FROM wanted AS w
        WHERE w.grantee = 'public' OR EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = w.grantee)
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', rights.routine, rights.grantee);
    END LOOP;
END
$$;

COMMENT ON FUNCTION cbir_internal.grant_roles() IS
'Grants to each of cbirdb''s roles that exists the rights that it needs in this database.';
