-- Title: Find faults of access control
-- Description: Compares policies, triggers, grants, owners and search paths with those that this version makes. `cbirdb
--   db doctor` itself compares tables and columns. Each row is one difference. Policies are compared as PostgreSQL
--   prints them: the function makes the right ones on empty temporary copies of the tables and drops the copies. The
--   schema's owner calls it.
CREATE FUNCTION cbir_internal.access_fault()
RETURNS TABLE (object text, fault text)
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    owner constant name := (SELECT pg_get_userbyid(c.relowner) FROM pg_class AS c WHERE c.oid = 'cbir.image'::regclass);
    protected constant boolean := EXISTS (SELECT FROM cbir.setting AS s WHERE s.name = 'row_security' AND s.enabled);
    bounded constant boolean := EXISTS (
        SELECT FROM pg_roles AS r WHERE r.rolname = 'cbir_search' AND pg_has_role(owner, r.oid, 'SET')
    );
    tab record;
    wanted text[];
    there text[];
BEGIN
    IF NOT bounded THEN
        object := 'role cbir_search';
        fault := 'it is missing, or the schema''s owner may not SET ROLE to it: searches run as their caller, and row-level'
        ' security cannot be switched on';
        RETURN NEXT;
    END IF;
    FOR tab IN
        SELECT c.oid, c.relname, c.relrowsecurity AND c.relforcerowsecurity AS secured
        FROM pg_class AS c
        WHERE c.relnamespace = 'cbir'::regnamespace AND c.relkind = 'r'
        ORDER BY c.relname
    LOOP
        object := 'table ' || tab.relname;
        CONTINUE WHEN cbir_internal.tenant_condition(tab.relname) IS NULL;
        IF protected <> tab.secured THEN
            fault := CASE WHEN protected THEN 'row-level security is off' ELSE 'row-level security is on' END;
            RETURN NEXT;
        END IF;
        there := ARRAY(
            SELECT concat_ws(
                ' ', p.polname, p.polcmd, p.polpermissive, ARRAY(
                    SELECT CASE r.id WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(r.id)::text END
                    FROM unnest(p.polroles) AS r (id) ORDER BY 1
                ), pg_get_expr(p.polqual, p.polrelid), '/', pg_get_expr(p.polwithcheck, p.polrelid)
            )
            FROM pg_policy AS p WHERE p.polrelid = tab.oid ORDER BY p.polname
        );
        wanted := '{}';
        IF protected THEN
            EXECUTE format('CREATE TEMPORARY TABLE %I (LIKE cbir.%1$I) ON COMMIT DROP', tab.relname);
            PERFORM cbir_internal.protect_table(format('pg_temp.%I', tab.relname)::regclass, TRUE);
            wanted := ARRAY(
                SELECT concat_ws(
                    ' ', p.polname, p.polcmd, p.polpermissive,
                    CASE p.polname WHEN 'cbir_owner' THEN ARRAY[owner::text] ELSE '{PUBLIC}' END,
                    pg_get_expr(p.polqual, p.polrelid), '/', pg_get_expr(p.polwithcheck, p.polrelid)
                )
                FROM pg_policy AS p
                WHERE p.polrelid = format('pg_temp.%I', tab.relname)::regclass ORDER BY p.polname
            );
            EXECUTE format('DROP TABLE pg_temp.%I', tab.relname);
        END IF;
        IF wanted <> there THEN
            fault := 'its policies differ from those that this version creates';
            RETURN NEXT;
        END IF;
    END LOOP;
    RETURN QUERY
    SELECT format('trigger %s on %s', d.trigger_name, d.table_name),
        CASE WHEN t.tgenabled = 'D' THEN 'disabled' WHEN t.oid IS NULL THEN 'missing' ELSE 'differs from this version''s' END
    FROM cbir_internal.trigger_definition() AS d
    LEFT JOIN pg_trigger AS t
        ON t.tgrelid = to_regclass(format('cbir.%I', d.table_name)) AND t.tgname = d.trigger_name AND NOT t.tgisinternal
    LEFT JOIN pg_proc AS p ON p.oid = t.tgfoid
    WHERE t.oid IS NULL OR t.tgenabled <> 'O' OR p.pronamespace <> 'cbir_internal'::regnamespace OR p.proname <> d.function_name
    UNION ALL
    SELECT format('trigger %s on %s', t.tgname, c.relname), 'not made by cbirdb'
    FROM pg_trigger AS t
    INNER JOIN pg_class AS c ON c.oid = t.tgrelid
    WHERE
        c.relnamespace = 'cbir'::regnamespace AND NOT t.tgisinternal
        AND NOT EXISTS (
            SELECT FROM cbir_internal.trigger_definition() AS d WHERE d.table_name = c.relname AND d.trigger_name = t.tgname
        );
    RETURN QUERY
    SELECT format('rule %s on %s', r.rulename, c.relname), 'not made by cbirdb'
    FROM pg_rewrite AS r
    INNER JOIN pg_class AS c ON c.oid = r.ev_class
    WHERE c.relnamespace = 'cbir'::regnamespace AND c.relkind = 'r';
    RETURN QUERY
    SELECT g.object, g.fault FROM cbir_internal.wrong_grant(protected, bounded) AS g
    UNION ALL
    SELECT w.object, w.fault FROM cbir_internal.wrong_call(protected, bounded) AS w;
    RETURN QUERY
    SELECT format('dataset_access of %s', a.role_name),
        CASE
            WHEN r.oid IS NULL THEN 'there is no such role, so the row has no effect'
            ELSE 'the role was created again, or the database was restored; to confirm, run: cbirdb db row-security confirm'
        END
    FROM (SELECT DISTINCT x.role_name, x.role_oid FROM cbir.dataset_access AS x) AS a
    LEFT JOIN pg_roles AS r ON r.rolname = a.role_name
    WHERE r.oid IS DISTINCT FROM a.role_oid;
END
$$;

COMMENT ON FUNCTION cbir_internal.access_fault() IS
'Returns each difference of policies, triggers, grants, owners, search paths and cbir.dataset_access from what they'
' should be.';
