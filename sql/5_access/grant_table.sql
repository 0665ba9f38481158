-- Title: Grant on one table what each role needs
-- Description: To those of cbirdb's roles that there are (see sql/dba/create_roles.sql); the one place that says who
--   may do what with a table. cbir_ingest is a member of cbir_reader, and cbir_admin of both. What a hospital has
--   granted besides stays; one right that earlier versions gave is taken back: UPDATE of all columns of cbir.encoder.
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
    IF name = 'encoder' AND EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = 'cbir_ingest') THEN
        EXECUTE format('REVOKE UPDATE ON %s FROM cbir_ingest', tab);
    END IF;
    FOR rights IN
        SELECT r.grantee, r.privileges
        FROM (
            VALUES
            ('cbir_reader', CASE WHEN NOT of_audit AND name NOT IN ('sql_object', 'pseudonym_key') THEN 'SELECT' END),
            ('cbir_ingest', CASE
                WHEN is_view THEN NULL
                WHEN name IN ('dataset', 'patient', 'study', 'series', 'image', 'failure')
                    THEN 'INSERT, UPDATE'
                -- Not where its vectors lie nor what they are: every site and every erasure goes by that.
                WHEN name = 'encoder'
                    THEN 'INSERT, UPDATE (weights_sha256, preprocessing_sha256, provenance, golden_embedding)'
                WHEN name IN ('label', 'encoder_record') THEN 'INSERT'
                WHEN name = 'pseudonym_key' THEN 'SELECT, INSERT'
                WHEN name = 'image_label' OR starts_with(name, 'embedding_') THEN 'INSERT, DELETE'
            END),
            ('cbir_admin', CASE
                WHEN is_view OR name = 'search_audit' THEN NULL
                WHEN of_audit THEN 'SELECT'
                ELSE 'SELECT, INSERT, UPDATE, DELETE'
            END),
            ('cbir_auditor', CASE WHEN name IN ('search_audit', 'erasure_certificate', 'erased_image', 'setting') THEN 'SELECT' END)
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
