-- Title: Write the certificate of an erasure
-- Description: Writes the certificate with the commands to run after COMMIT. They remove deleted vectors from the
--   vector indexes and the files, and deleted values from the planner's statistics (pg_stats shows the most common
--   values, and bounds of histograms). It also stores the hashed files, so that a list without patients cannot bring
--   them back.
-- Inputs: the dataset's name, the hashed pseudonym, the hashed sources (see cbir.erasure_hash), number of removed rows
--   by table.
CREATE FUNCTION cbir_internal.certify_erasure(dataset text, pseudonym_sha256 bytea, sources bytea[], removed jsonb)
RETURNS cbir.erasure_certificate
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    certificate cbir.erasure_certificate;
BEGIN
    INSERT INTO cbir.erasure_certificate (dataset, pseudonym_sha256, login, role, removed, to_run)
    SELECT
        certify_erasure.dataset, certify_erasure.pseudonym_sha256,
        session_user, cbir_internal.acting_role(), certify_erasure.removed,
        -- A rebuilt index holds no deleted vector, and VACUUM is faster after it.
        ARRAY(
            SELECT format('REINDEX INDEX CONCURRENTLY cbir.%I', c.relname)
            FROM cbir.encoder AS e
            INNER JOIN pg_index AS x ON x.indrelid = to_regclass(format('cbir.%I', e.table_name))
            INNER JOIN pg_class AS c ON c.oid = x.indexrelid
            INNER JOIN pg_am AS am ON am.oid = c.relam AND am.amname IN ('hnsw', 'ivfflat')
            WHERE (certify_erasure.removed ->> e.table_name)::bigint > 0
            ORDER BY c.relname
        )
        || ARRAY(
            SELECT format('VACUUM (ANALYZE) cbir.%I', c.relname)
            FROM jsonb_each_text(certify_erasure.removed) AS r (tab, number)
            INNER JOIN pg_class AS c ON c.relname = r.tab AND c.relnamespace = 'cbir'::regnamespace
            WHERE r.number::bigint > 0
            ORDER BY c.relname
        )
    RETURNING * INTO certificate;
    INSERT INTO cbir.erased_image (source_sha256, certificate_id)
    SELECT s.hash, certificate.certificate_id FROM unnest(sources) AS s (hash)
    ON CONFLICT DO NOTHING;
    RETURN certificate;
END
$$;

COMMENT ON FUNCTION cbir_internal.certify_erasure(text, bytea, bytea[], jsonb) IS
'Writes the certificate of an erasure, and the hashes that keep its images from coming back.';
