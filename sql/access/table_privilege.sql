-- Title: Rights of each role on a table
-- Description: Returns the rights of those of cbirdb's roles that exist (see sql/dba/create_roles.sql). No other place
--   says so. cbir_ingest is a member of cbir_reader, and cbir_admin of both. Under row-level security neither
--   cbir_reader nor cbir_ingest has a right on any table: they read views and call functions, which run as cbir_search.
--   Only the owner writes encoders, because names of tables are derived from theirs.
-- Inputs: the name of a table or view of schema cbir; TRUE for a view; TRUE if row-level security is on.
CREATE FUNCTION cbir_internal.table_privilege(table_name text, is_view boolean, protected boolean)
RETURNS TABLE (grantee text, privilege text)
LANGUAGE sql
STABLE
SET search_path FROM CURRENT
AS $$
SELECT r.grantee, p.privilege
FROM (
    SELECT
        $1 IN ('search_audit', 'erasure_certificate', 'erased_image', 'returned_patient') AS of_audit,
        CASE
            WHEN $2 THEN NULL
            WHEN $1 IN ('dataset', 'patient', 'study', 'series', 'image', 'failure') THEN '{INSERT,UPDATE}'
            WHEN $1 = 'label' THEN '{INSERT}'
            WHEN $1 = 'image_label' OR starts_with($1, 'embedding_') THEN '{INSERT,DELETE}'
        END AS loading
) AS kind
CROSS JOIN LATERAL (
    SELECT NOT kind.of_audit AND $1 NOT IN ('sql_object', 'pseudonym_key', 'merged_patient') AS readable
) AS also
CROSS JOIN LATERAL (
    VALUES
    ('cbir_reader', CASE WHEN also.readable AND ($2 OR NOT $3) THEN '{SELECT}' END),
    ('cbir_search', CASE WHEN also.readable AND NOT $2 THEN '{SELECT}' END),
    ('cbir_search', kind.loading),
    ('cbir_ingest', CASE WHEN NOT $3 THEN kind.loading END),
    ('cbir_admin', CASE
        WHEN $2 OR $1 = 'search_audit' THEN NULL
        WHEN kind.of_audit THEN '{SELECT}'
        ELSE '{SELECT,INSERT,UPDATE,DELETE}'
    END),
    ('cbir_auditor', CASE
        WHEN $1 IN ('search_audit', 'erasure_certificate', 'erased_image', 'setting') THEN '{SELECT}'
    END)
) AS r (grantee, privileges)
INNER JOIN pg_roles AS there ON there.rolname = r.grantee
CROSS JOIN LATERAL unnest(r.privileges::text []) AS p (privilege)
$$;

COMMENT ON FUNCTION cbir_internal.table_privilege(text, boolean, boolean) IS
'Returns the rights of each of cbirdb''s roles that exists on a table or view: a row per role and privilege.';
