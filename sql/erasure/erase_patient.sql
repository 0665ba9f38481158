-- Title: Erase a patient
-- Description: Removes a patient from every table, every embedding table, stored neighbours and result lists, in one
--   transaction. It returns a certificate per dataset and pseudonym, which stays and keeps the patient from being
--   ingested again. Patients that were merged are one person, whom any of their pseudonyms names. Deleted rows stay in
--   files and vector indexes until VACUUM: to_run lists the commands to run after COMMIT (`cbirdb erase` runs them). If
--   a patient was erased before and has not come back, the function returns the earlier certificates, and removes the
--   pseudonym from purposes once more.
--     SELECT * FROM cbir.erase_patient('0a1b2c...', 'mimic');
-- Inputs: the pseudonym, as in cbir.patient or cbir.merged_patient; a dataset's name (NULL: every dataset that has this
--   pseudonym).
CREATE FUNCTION cbir.erase_patient(pseudonym text, dataset text DEFAULT NULL)
RETURNS SETOF cbir.erasure_certificate
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    person record;
    ids bigint[];
    study_ids bigint[];
    hashes bytea[];
    merged cbir.merged_patient[];
    other cbir.merged_patient;
    removed jsonb;
    number bigint;
    certificate cbir.erasure_certificate;
    erased boolean := FALSE;
BEGIN
    FOR person IN
        SELECT p.patient_id, p.pseudonym, d.name
        FROM cbir.patient AS p
        INNER JOIN cbir.dataset AS d ON d.dataset_id = p.dataset_id
        WHERE
            (
                p.pseudonym = erase_patient.pseudonym
                OR p.patient_id IN (
                    SELECT m.patient_id FROM cbir.merged_patient AS m WHERE m.pseudonym = erase_patient.pseudonym
                )
            )
            AND (erase_patient.dataset IS NULL OR d.name = erase_patient.dataset)
        ORDER BY p.patient_id
        FOR UPDATE OF p
    LOOP
        erased := TRUE;
        ids := ARRAY(
            SELECT i.image_id FROM cbir.image AS i WHERE i.patient_id = person.patient_id
            UNION
            SELECT i.image_id FROM cbir.study AS st
            INNER JOIN cbir.image AS i ON i.study_id = st.study_id
            WHERE st.patient_id = person.patient_id
            UNION
            SELECT i.image_id FROM cbir.study AS st
            INNER JOIN cbir.series AS se ON se.study_id = st.study_id
            INNER JOIN cbir.image AS i ON i.series_id = se.series_id
            WHERE st.patient_id = person.patient_id
        );
        study_ids := ARRAY(
            SELECT st.study_id FROM cbir.study AS st WHERE st.patient_id = person.patient_id
            UNION
            -- A study without a patient, all of whose images belong to this patient.
            SELECT st.study_id FROM cbir.image AS own
            INNER JOIN cbir.study AS st ON st.study_id = own.study_id AND st.patient_id IS NULL
            WHERE
                own.image_id = ANY (ids)
                AND NOT EXISTS (SELECT FROM cbir.image AS i WHERE i.study_id = st.study_id AND i.image_id <> ALL (ids))
        );
        hashes := ARRAY(
            SELECT DISTINCT cbir.erasure_hash(person.name, i.source) FROM cbir.image AS i WHERE i.image_id = ANY (ids)
        );
        merged := ARRAY(
            SELECT m FROM cbir.merged_patient AS m WHERE m.patient_id = person.patient_id ORDER BY m.pseudonym
        );
        removed := cbir_internal.erase_images(ids);
        DELETE FROM cbir.series AS se WHERE se.study_id = ANY (study_ids);
        GET DIAGNOSTICS number = ROW_COUNT;
        removed := removed || jsonb_build_object('series', number);
        DELETE FROM cbir.study AS st WHERE st.study_id = ANY (study_ids);
        GET DIAGNOSTICS number = ROW_COUNT;
        removed := removed || jsonb_build_object('study', number);
        DELETE FROM cbir.merged_patient AS m WHERE m.patient_id = person.patient_id;
        GET DIAGNOSTICS number = ROW_COUNT;
        removed := removed || jsonb_build_object('merged_patient', number);
        DELETE FROM cbir.patient AS p WHERE p.patient_id = person.patient_id;
        GET DIAGNOSTICS number = ROW_COUNT;
        removed := removed || jsonb_build_object('patient', number);
        certificate := cbir_internal.certify_erasure(
            person.name, cbir.erasure_hash(person.name, person.pseudonym), hashes, removed
        );
        RETURN NEXT cbir_internal.redact_audit(certificate, ids, study_ids, ARRAY[person.patient_id], person.pseudonym);
        FOREACH other IN ARRAY merged LOOP
            certificate := cbir_internal.certify_erasure(
                person.name, cbir.erasure_hash(person.name, other.pseudonym), '{}', '{}'
            );
            RETURN NEXT cbir_internal.redact_audit(certificate, '{}', '{}', ARRAY[other.former_patient_id], other.pseudonym);
        END LOOP;
    END LOOP;
    IF erased THEN
        RETURN;
    END IF;
    FOR certificate IN
        SELECT c.* FROM cbir.erasure_certificate AS c
        WHERE
            c.pseudonym_sha256 = cbir.erasure_hash(c.dataset, erase_patient.pseudonym)
            AND (erase_patient.dataset IS NULL OR c.dataset = erase_patient.dataset)
        ORDER BY c.erased_at
    LOOP
        erased := TRUE;
        -- Somebody may have named the patient as the purpose of a search since then.
        RETURN NEXT cbir_internal.redact_audit(certificate, '{}', '{}', '{}', erase_patient.pseudonym);
    END LOOP;
    IF NOT erased THEN
        -- Without the pseudonym itself, because servers log errors.
        RAISE EXCEPTION 'there is no patient with this pseudonym%',
            coalesce(' in dataset "' || erase_patient.dataset || '"', '') USING
            ERRCODE = 'no_data_found',
            HINT = 'cbir.patient lists the pseudonyms. To erase by the original patient ID, run:'
            ' cbirdb erase --patient-id ID --pseudonym-key FILE';
    END IF;
END
$$;

COMMENT ON FUNCTION cbir.erase_patient(text, text) IS
'Removes a patient from every table and stored result, and returns a certificate per dataset and'
' pseudonym.';
