-- Title: Restore certificates of erasure
-- Description: Inserts certificates that were kept in files (see `cbirdb erase --certificate`). A backup that is older
--   than an erasure does not contain its certificate. Afterwards cbir.reapply_erasures erases what the backup brought
--   back.
-- Inputs: an array of certificates as `cbirdb erase` writes them.
-- Returns: the number of new certificates.
CREATE FUNCTION cbir.restore_certificates(certificates jsonb)
RETURNS bigint
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    restored bigint;
BEGIN
    INSERT INTO cbir.erasure_certificate (
        certificate_id, dataset, pseudonym_sha256, erased_at, login, role, removed, to_run
    )
    SELECT
        c.certificate_id, c.dataset, decode(c.pseudonym_sha256, 'hex'), c.erased_at, c.login, c.role, c.removed, '{}'
    FROM jsonb_to_recordset(certificates) AS c (
        certificate_id uuid, dataset text, pseudonym_sha256 text, erased_at timestamptz, login text, role text,
        removed jsonb
    )
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS restored = ROW_COUNT;
    INSERT INTO cbir.erased_image (source_sha256, certificate_id)
    SELECT decode(s.hash, 'hex'), c.certificate_id
    FROM jsonb_to_recordset(certificates) AS c (certificate_id uuid, sources_sha256 text[])
    CROSS JOIN LATERAL unnest(c.sources_sha256) AS s (hash)
    ON CONFLICT DO NOTHING;
    RETURN restored;
END
$$;

COMMENT ON FUNCTION cbir.restore_certificates(jsonb) IS
'Inserts certificates of erasure that a restored backup lacks; returns the number of new ones.';
