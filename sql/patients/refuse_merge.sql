-- Title: Refuse to merge a patient who is not there
-- Description: Raises an error that says why: the patient was erased, was merged before, or was never there. The
--   message does not show the pseudonym, because servers log errors.
-- Inputs: a pseudonym that no patient has; its place, first or second; a dataset's name (NULL: any).
CREATE FUNCTION cbir_internal.refuse_merge(pseudonym text, place text, dataset text)
RETURNS void
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
BEGIN
    IF EXISTS (
        SELECT FROM cbir.erasure_certificate AS c
        WHERE
            c.pseudonym_sha256 = cbir.erasure_hash(c.dataset, refuse_merge.pseudonym)
            AND (refuse_merge.dataset IS NULL OR c.dataset = refuse_merge.dataset)
    ) THEN
        RAISE EXCEPTION 'a patient who was erased cannot be merged' USING
            ERRCODE = 'object_not_in_prerequisite_state', HINT = 'cbirdb erase --list shows the erasures.';
    ELSIF EXISTS (
        SELECT FROM cbir.merged_patient AS m
        INNER JOIN cbir.dataset AS d ON d.dataset_id = m.dataset_id
        WHERE m.pseudonym = refuse_merge.pseudonym AND (refuse_merge.dataset IS NULL OR d.name = refuse_merge.dataset)
    ) THEN
        RAISE EXCEPTION 'the patient was merged into another before' USING
            ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'cbir.merged_patient says into whom. To merge that patient, give that pseudonym.';
    END IF;
    RAISE EXCEPTION 'there is no patient with the % pseudonym%',
        place, coalesce(' in dataset "' || refuse_merge.dataset || '"', '') USING
        ERRCODE = 'object_not_in_prerequisite_state', HINT = 'cbir.patient lists the pseudonyms.';
END
$$;

COMMENT ON FUNCTION cbir_internal.refuse_merge(text, text, text) IS
'Raises the error that says why a patient cannot be merged: erased, merged before, or unknown.';
