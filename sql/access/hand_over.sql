-- Title: Hand over to cbir_search what readers use
-- Description: Makes the security boundary. Functions for readers and for loading (see function_audience) and views
--   become cbir_search's and run as that role, which is under row-level security like every other role. Therefore
--   nobody needs a right on any table, no search escapes the audit, and EXPLAIN shows no condition on a hidden row.
--   Every `cbirdb db upgrade` calls it last: comments and grants come first, because afterwards the former owner may no
--   longer make them. If the role does not exist, or this owner may not act as it, everything runs as its caller.
-- Returns: TRUE if there is a boundary.
CREATE FUNCTION cbir_internal.hand_over()
RETURNS boolean
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    owner constant text := current_user;
    given record;
    extension_schema constant text := (
        SELECT n.nspname FROM pg_extension AS x INNER JOIN pg_namespace AS n ON n.oid = x.extnamespace
        WHERE x.extname = 'vector'
    );
    taken text[] := '{}';
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = 'cbir_search' AND pg_has_role(r.oid, 'SET')) THEN
        RETURN FALSE;
    END IF;
    IF NOT has_schema_privilege('cbir_search', extension_schema, 'USAGE') THEN
        RAISE EXCEPTION 'role cbir_search lacks the privilege USAGE on schema "%", which contains pgvector', extension_schema USING
            ERRCODE = 'insufficient_privilege',
            HINT = format('A database administrator runs: GRANT USAGE ON SCHEMA %I TO cbir_search;', extension_schema);
    END IF;
    GRANT CREATE ON SCHEMA cbir, cbir_internal TO cbir_search;
    FOR given IN
        SELECT 'FUNCTION' AS kind, f.routine::text AS name, 'EXECUTE' AS privilege, 'SECURITY DEFINER' AS as_owner
        FROM cbir_internal.function_audience() AS f WHERE f.audience IN ('reader', 'loader')
        UNION ALL
        SELECT 'VIEW', c.oid::regclass::text, 'SELECT', 'SET (security_invoker = FALSE)'
        FROM cbir.sql_object AS o
        INNER JOIN pg_class AS c ON c.oid = to_regclass(o.name)
        WHERE o.kind = 'view' AND c.relname <> 'returned_patient'
    LOOP
        EXECUTE format('ALTER %s %s %s', given.kind, given.name, given.as_owner);
        EXECUTE format('ALTER %s %s OWNER TO cbir_search', given.kind, given.name);
        taken := taken || format(
            'GRANT %s ON %s %s TO %I', given.privilege, CASE given.kind WHEN 'VIEW' THEN 'TABLE' ELSE given.kind END,
            given.name, owner
        );
    END LOOP;
    REVOKE CREATE ON SCHEMA cbir, cbir_internal FROM cbir_search;
    -- The owner calls them too, and need not be a member of any role that may.
    PERFORM set_config('role', 'cbir_search', TRUE);
    FOR given IN SELECT t.statement FROM unnest(taken) AS t (statement) LOOP
        EXECUTE given.statement;
    END LOOP;
    PERFORM set_config('role', owner, TRUE);
    RETURN TRUE;
END
$$;

COMMENT ON FUNCTION cbir_internal.hand_over() IS
'Gives the functions and views that readers and loading use to cbir_search, so that they run as that role.';
