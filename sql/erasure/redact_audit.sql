-- Title: Remove erased data from the audit of searches
-- Description: Updates audit rows as the last step of an erasure, after its certificate. The audit's guard allows the
--   removal of ids that name nothing, and of a pseudonym with a certificate. It reads the pseudonym from a setting of
--   this transaction, because no table has it any more. The certificate then gets the number of changed rows.
-- Inputs: the certificate; ids of images, studies and patients that no longer exist; the pseudonym (NULL: unknown).
-- Returns: the updated certificate.
CREATE FUNCTION cbir_internal.redact_audit(
    certificate cbir.erasure_certificate,
    image_ids bigint[],
    study_ids bigint[],
    patient_ids bigint[],
    pseudonym text
)
RETURNS cbir.erasure_certificate
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    vacuum constant text := 'VACUUM (ANALYZE) cbir.search_audit';
    number bigint;
BEGIN
    PERFORM set_config('cbir.erased_pseudonym', coalesce(pseudonym, ''), TRUE);
    UPDATE cbir.search_audit AS a
    SET (query_image_id, returned, filter, purpose, erased_ids) = (
        SELECT r.query_image_id, r.returned, r.filter, r.purpose, r.erased_ids
        FROM cbir_internal.redacted_search(a, image_ids, study_ids, patient_ids, redact_audit.pseudonym) AS r
    )
    WHERE
        a.query_image_id = ANY (image_ids) OR a.returned && image_ids
        OR a.filter ?| '{image_ids,without_image}' AND cbir_internal.searched_images(a) && image_ids
        OR to_jsonb(study_ids) @> (a.filter -> 'study_id')
        OR to_jsonb(patient_ids) @> (a.filter -> 'without_patient')
        OR a.purpose <> cbir_internal.erased_purpose(a.purpose, redact_audit.pseudonym);
    GET DIAGNOSTICS number = ROW_COUNT;
    PERFORM set_config('cbir.erased_pseudonym', '', TRUE);
    UPDATE cbir.erasure_certificate AS c
    SET
        removed = c.removed || jsonb_build_object(
            'search_audit_redacted', coalesce((c.removed ->> 'search_audit_redacted')::bigint, 0) + number
        ),
        -- Until VACUUM, old rows stay in the table's file, and old values in the planner's statistics.
        to_run = CASE WHEN number > 0 THEN array_remove(c.to_run, vacuum) || vacuum ELSE c.to_run END
    WHERE c.certificate_id = certificate.certificate_id
    RETURNING * INTO certificate;
    RETURN certificate;
END
$$;

COMMENT ON FUNCTION cbir_internal.redact_audit(cbir.erasure_certificate, bigint[], bigint[], bigint[], text) IS
'Removes erased data from cbir.search_audit; returns the certificate with the number of rows.';
