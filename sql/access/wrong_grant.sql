-- Title: Find wrong rights, owners and search paths
-- Description: Returns faults for access_fault.
-- Inputs: TRUE if row-level security is on; TRUE if functions and views for readers belong to cbir_search.
CREATE FUNCTION cbir_internal.wrong_grant(protected boolean, bounded boolean)
RETURNS TABLE (object text, fault text)
LANGUAGE sql
STABLE
SET search_path FROM CURRENT
AS $$
WITH owner AS (SELECT c.relowner AS id FROM pg_class AS c WHERE c.oid = 'cbir.image'::regclass),
relation AS (
    SELECT c.oid, c.relname::text AS name, c.relkind = 'v' AS is_view, c.relowner, c.relacl, c.reloptions
    FROM pg_class AS c
    WHERE
        c.relnamespace = 'cbir'::regnamespace
        AND (c.relkind = 'r' OR EXISTS (
            SELECT FROM cbir.sql_object AS o WHERE o.kind = 'view' AND to_regclass(o.name) = c.oid
        ))
),
held AS (
    SELECT
        r.name, r.is_view, r.relowner, a.privilege_type, x.columns, coalesce(g.rolname, 'PUBLIC')::text AS grantee,
        a.grantee AS id
    FROM relation AS r
    CROSS JOIN LATERAL (
        SELECT r.relacl AS acl, '' AS columns
        UNION ALL
        SELECT t.attacl, format(' (%I)', t.attname) FROM pg_attribute AS t WHERE t.attrelid = r.oid
    ) AS x
    CROSS JOIN LATERAL aclexplode(x.acl) AS a
    LEFT JOIN pg_roles AS g ON g.oid = a.grantee
),
routine AS (
    SELECT f.routine, f.name, f.audience, p.proowner, p.prosecdef, p.proconfig, p.proacl, p.prokind
    FROM cbir_internal.function_audience() AS f
    INNER JOIN pg_proc AS p ON p.oid = f.routine
)
-- Missing rights.
SELECT format('%s %s', CASE WHEN r.is_view THEN 'view' ELSE 'table' END, r.name),
    format('%s lacks %s', p.grantee, p.privilege)
FROM relation AS r
CROSS JOIN LATERAL cbir_internal.table_privilege(r.name, r.is_view, $1) AS p
WHERE NOT has_table_privilege(p.grantee, r.oid, p.privilege)
UNION ALL
-- Excess rights: for cbirdb's own roles, more than they need; for others, any right on the audit, any right but SELECT
-- on encoders, dataset access and settings, and under row-level security any right on tables.
SELECT format('%s %s', CASE WHEN h.is_view THEN 'view' ELSE 'table' END, h.name),
    format('%s has %s%s', h.grantee, h.privilege_type, h.columns)
FROM held AS h
WHERE
    h.id NOT IN (h.relowner, (SELECT o.id FROM owner AS o))
    AND NOT EXISTS (
        SELECT FROM cbir_internal.table_privilege(h.name, h.is_view, $1) AS p
        WHERE p.grantee = h.grantee AND p.privilege = h.privilege_type
    )
    AND (
        h.grantee IN ('cbir_reader', 'cbir_ingest', 'cbir_auditor', 'cbir_search')
        OR h.name IN ('search_audit', 'erasure_certificate', 'erased_image', 'pseudonym_key', 'merged_patient', 'returned_patient')
        OR (h.name IN ('encoder', 'encoder_record', 'dataset_access', 'setting') AND h.privilege_type <> 'SELECT')
        OR ($1 AND NOT h.is_view)
    )
UNION ALL
SELECT format('function %s', r.routine), 'everybody may call it'
FROM routine AS r
WHERE
    r.audience <> 'public'
    AND EXISTS (
        SELECT FROM aclexplode(coalesce(r.proacl, acldefault('f', r.proowner))) AS a WHERE a.grantee = 0
    )
UNION ALL
SELECT format('function %s', r.routine), 'it belongs to ' || pg_get_userbyid(r.proowner)
FROM routine AS r
WHERE
    (pg_get_userbyid(r.proowner) = 'cbir_search') <> ($2 AND r.audience IN ('reader', 'loader'))
    OR (pg_get_userbyid(r.proowner) <> 'cbir_search' AND r.proowner <> (SELECT o.id FROM owner AS o))
UNION ALL
SELECT format('function %s', r.routine),
    CASE WHEN r.prosecdef THEN 'it runs as its owner' ELSE 'it does not run as its owner' END
FROM routine AS r
WHERE r.audience IN ('reader', 'loader') AND r.prosecdef <> $2
UNION ALL
SELECT format('function %s', r.routine), 'its search_path is not pinned'
FROM routine AS r
WHERE
    r.prosecdef
    AND NOT coalesce('search_path=' || (
        SELECT format('cbir, %s, pg_temp', quote_ident(n.nspname))
        FROM pg_extension AS x INNER JOIN pg_namespace AS n ON n.oid = x.extnamespace WHERE x.extname = 'vector'
    ) = any(r.proconfig), FALSE)
UNION ALL
SELECT format('view %s', r.name), 'it does not run as cbir_search'
FROM relation AS r
WHERE
    $2 AND r.is_view AND r.name <> 'returned_patient'
    AND (pg_get_userbyid(r.relowner) <> 'cbir_search' OR 'security_invoker=true' = any(r.reloptions))
UNION ALL
SELECT format('%s %s', CASE WHEN r.is_view THEN 'view' ELSE 'table' END, r.name),
    'it belongs to ' || pg_get_userbyid(r.relowner)
FROM relation AS r
WHERE r.relowner <> (SELECT o.id FROM owner AS o) AND NOT (r.is_view AND pg_get_userbyid(r.relowner) = 'cbir_search')
$$;

COMMENT ON FUNCTION cbir_internal.wrong_grant(boolean, boolean) IS
'Returns rights, owners and search paths that differ from those that this version gives.';
