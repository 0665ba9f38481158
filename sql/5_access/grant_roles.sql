-- Title: Grant to cbirdb's roles what each needs
-- Description: On the schema, every table and view, and the functions that not everybody may call. Called by every
--   `cbirdb db upgrade`; roles that are not there are passed over. Must be called by the schema's owner.
CREATE FUNCTION cbir.grant_roles()
RETURNS void
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    rights record;
BEGIN
    FOR rights IN
        SELECT r.rolname AS grantee FROM pg_roles AS r
        WHERE r.rolname IN ('cbir_reader', 'cbir_ingest', 'cbir_admin', 'cbir_auditor')
    LOOP
        EXECUTE format('GRANT USAGE ON SCHEMA cbir TO %I', rights.grantee);
    END LOOP;
    PERFORM cbir.grant_table(c.oid)
    FROM pg_class AS c
    WHERE
        c.relnamespace = 'cbir'::regnamespace AND c.relkind IN ('r', 'v')
        AND pg_has_role(c.relowner, 'USAGE')
        AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = c.oid AND d.deptype = 'e');
    FOR rights IN
        SELECT f.signature, f.grantee
        FROM (
            VALUES
            ('cbir.create_embedding_table(text)', 'cbir_ingest'),
            ('cbir.erased_source(text, text[], text[], boolean)', 'cbir_ingest'),
            ('cbir.erased_dataset()', 'cbir_ingest'),
            ('cbir.erase_patient(text, text)', 'cbir_admin'),
            ('cbir.restore_certificates(jsonb)', 'cbir_admin'),
            ('cbir.reapply_erasures()', 'cbir_admin'),
            ('cbir.set_row_security(boolean)', 'cbir_admin')
        ) AS f (signature, grantee)
        INNER JOIN pg_roles AS there ON there.rolname = f.grantee
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', rights.signature::regprocedure, rights.grantee);
    END LOOP;
    -- Whoever may read images may search, and a search notes itself: cbir_reader, and what roles a hospital has made.
    FOR rights IN
        SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS grantee
        FROM pg_class AS c
        CROSS JOIN LATERAL aclexplode(c.relacl) AS a
        WHERE c.oid = 'cbir.image'::regclass AND a.privilege_type = 'SELECT' AND a.grantee <> c.relowner
    LOOP
        EXECUTE format(
            'GRANT EXECUTE ON FUNCTION %s TO %s', 'cbir.record_search'::regproc::regprocedure, rights.grantee
        );
    END LOOP;
END
$$;

COMMENT ON FUNCTION cbir.grant_roles() IS
'Grants to those of cbirdb''s roles that exist what each needs in this database.';
