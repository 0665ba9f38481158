-- Title: Grant on one table what each role needs
-- Description: To those of cbirdb's roles that there are (see sql/dba/create_roles.sql); the one place that says who
--   may do what with a table. cbir_ingest is a member of cbir_reader, and cbir_admin of both. Nothing is revoked: what
--   a hospital has granted besides stays.
-- Inputs: a table or view of schema cbir.
CREATE FUNCTION cbir.grant_table(tab regclass)
RETURNS void
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    name constant text := (SELECT c.relname FROM pg_class AS c WHERE c.oid = tab);
    is_view constant boolean := (SELECT c.relkind = 'v' FROM pg_class AS c WHERE c.oid = tab);
    of_audit constant boolean := name IN ('search_audit', 'erasure_certificate', 'erased_image', 'returned_patient');
    rights record;
BEGIN
    FOR rights IN
        SELECT r.grantee, r.privileges
        FROM (
            VALUES
            ('cbir_reader', CASE WHEN NOT of_audit AND name NOT IN ('sql_object', 'pseudonym_key') THEN 'SELECT' END),
            ('cbir_ingest', CASE
                WHEN is_view THEN NULL
                WHEN name IN ('dataset', 'patient', 'study', 'series', 'image', 'encoder', 'failure')
                    THEN 'INSERT, UPDATE'
                WHEN name IN ('label', 'encoder_record') THEN 'INSERT'
                WHEN name = 'pseudonym_key' THEN 'SELECT, INSERT'
                WHEN name = 'image_label' OR starts_with(name, 'embedding_') THEN 'INSERT, DELETE'
            END),
            ('cbir_admin', CASE
                WHEN is_view OR name = 'search_audit' THEN NULL
                WHEN of_audit THEN 'SELECT'
                ELSE 'SELECT, INSERT, UPDATE, DELETE'
            END),
            ('cbir_auditor', CASE WHEN name IN ('search_audit', 'erasure_certificate', 'setting') THEN 'SELECT' END)
        ) AS r (grantee, privileges)
        INNER JOIN pg_roles AS there ON there.rolname = r.grantee
        WHERE r.privileges IS NOT NULL
    LOOP
        EXECUTE format('GRANT %s ON %s TO %I', rights.privileges, tab, rights.grantee);
    END LOOP;
END
$$;

COMMENT ON FUNCTION cbir.grant_table(regclass) IS
'Grants on one table or view what each of cbirdb''s roles needs.';
