-- Title: Erase again what has come back
-- Description: Removes every patient and image that has a certificate of erasure but is in the catalogue
--   (cbir.returned_patient).
-- Returns: new certificates; none if nothing had come back.
CREATE FUNCTION cbir.reapply_erasures()
RETURNS SETOF cbir.erasure_certificate
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    back record;
    removed jsonb;
    certificate cbir.erasure_certificate;
BEGIN
    FOR back IN
        SELECT DISTINCT r.dataset, r.pseudonym FROM cbir.returned_patient AS r WHERE r.pseudonym IS NOT NULL
    LOOP
        RETURN QUERY SELECT c.* FROM cbir.erase_patient(back.pseudonym, back.dataset) AS c;
    END LOOP;
    FOR back IN
        SELECT r.dataset, c.pseudonym_sha256, array_agg(r.image_id) AS image_ids
        FROM cbir.returned_patient AS r
        INNER JOIN cbir.erasure_certificate AS c ON c.certificate_id = r.certificate_id
        WHERE r.image_id IS NOT NULL
        GROUP BY r.dataset, c.pseudonym_sha256
    LOOP
        removed := cbir_internal.erase_images(back.image_ids);
        certificate := cbir_internal.certify_erasure(back.dataset, back.pseudonym_sha256, '{}', removed);
        RETURN NEXT cbir_internal.redact_audit(certificate, back.image_ids, '{}', '{}', NULL);
    END LOOP;
END
$$;

COMMENT ON FUNCTION cbir.reapply_erasures() IS
'Removes patients and images that have a certificate of erasure but are in the catalogue again.';
