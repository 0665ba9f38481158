-- Title: Find roles that may call, create or act too much or too little
-- Description: Returns faults for access_fault.
-- Inputs: TRUE if row-level security is on; TRUE if functions and views for readers belong to cbir_search.
CREATE FUNCTION cbir_internal.wrong_call(protected boolean, bounded boolean)
RETURNS TABLE (object text, fault text)
LANGUAGE sql
STABLE
SET search_path FROM CURRENT
AS $$
WITH owner AS (SELECT c.relowner AS id FROM pg_class AS c WHERE c.oid = 'cbir.image'::regclass)
SELECT format('function %s', f.routine), format('%s may call it', g.rolname)
FROM cbir_internal.function_audience() AS f
INNER JOIN pg_proc AS p ON p.oid = f.routine
CROSS JOIN LATERAL aclexplode(p.proacl) AS a
INNER JOIN pg_roles AS g ON g.oid = a.grantee
WHERE
    $2 AND (f.audience IN ('inner', 'owner') OR ($1 AND f.audience IN ('admin', 'ingest', 'loader')))
    AND a.grantee NOT IN (p.proowner, (SELECT o.id FROM owner AS o))
    AND g.rolname <> CASE f.audience
        WHEN 'inner' THEN 'cbir_search'
        WHEN 'loader' THEN 'cbir_ingest'
        ELSE 'cbir_' || f.audience
    END
UNION ALL
SELECT format('function %s', f.routine), 'cbir_reader may not call it'
FROM cbir_internal.function_audience() AS f
INNER JOIN pg_roles AS g ON g.rolname = 'cbir_reader'
WHERE f.audience = 'reader' AND NOT has_function_privilege(g.oid, f.routine, 'EXECUTE')
UNION ALL
-- Functions find names in these schemas, so a role that may create there can get its own code run by them.
SELECT format('schema %I', n.nspname), coalesce(g.rolname, 'PUBLIC') || ' may create in it'
FROM pg_namespace AS n
CROSS JOIN LATERAL aclexplode(n.nspacl) AS a
LEFT JOIN pg_roles AS g ON g.oid = a.grantee
WHERE
    (n.nspname IN ('cbir', 'cbir_internal') OR n.oid = (SELECT x.extnamespace FROM pg_extension AS x WHERE x.extname = 'vector'))
    AND a.privilege_type = 'CREATE' AND a.grantee NOT IN (n.nspowner, (SELECT o.id FROM owner AS o))
    AND g.rolsuper IS NOT TRUE
UNION ALL
SELECT 'members of cbir_search', g.rolname::text
FROM pg_auth_members AS m
INNER JOIN pg_roles AS r ON r.oid = m.roleid
INNER JOIN pg_roles AS g ON g.oid = m.member
WHERE
    r.rolname = 'cbir_search' AND (m.inherit_option OR m.set_option)
    AND NOT g.rolsuper AND g.rolname <> 'cbir_admin' AND g.oid <> (SELECT o.id FROM owner AS o)
$$;

COMMENT ON FUNCTION cbir_internal.wrong_call(boolean, boolean) IS
'Returns functions that too many or too few roles may call, schemas in which others may create, and members of'
' cbir_search.';
