-- Title: Merge two patients of one dataset
-- Description: Moves studies and images, and remembers the former pseudonym, in the dataset alone. Patients that were
--   merged into the first before follow. A sex that only the first patient has stays known. cbir.merge_patients holds
--   the locks.
-- Inputs: a dataset's id; the id of the patient who goes; the pseudonym of the one who stays.
-- Returns: the numbers of studies and images that moved.
CREATE FUNCTION cbir_internal.merge_in_dataset(dataset_id bigint, from_id bigint, into_pseudonym text)
RETURNS TABLE (studies bigint, images bigint)
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    name constant text := (SELECT d.name FROM cbir.dataset AS d WHERE d.dataset_id = merge_in_dataset.dataset_id);
    former cbir.patient;
    into_id bigint;
    image_ids bigint[];
BEGIN
    SELECT p.* INTO former FROM cbir.patient AS p WHERE p.patient_id = from_id;
    IF EXISTS (
        SELECT FROM cbir.erasure_certificate AS c
        WHERE c.pseudonym_sha256 IN (
            cbir.erasure_hash(name, former.pseudonym), cbir.erasure_hash(name, into_pseudonym)
        )
    ) THEN
        RAISE EXCEPTION 'a patient who was erased cannot be merged' USING
            ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'cbirdb erase --list shows the erasures. If an erased patient is back, run: cbirdb erase --reapply';
    END IF;
    into_id := coalesce(
        (
            SELECT p.patient_id FROM cbir.patient AS p
            WHERE p.dataset_id = merge_in_dataset.dataset_id AND p.pseudonym = into_pseudonym
        ),
        (
            SELECT m.patient_id FROM cbir.merged_patient AS m
            WHERE m.dataset_id = merge_in_dataset.dataset_id AND m.pseudonym = into_pseudonym
        )
    );
    IF into_id = from_id THEN
        RAISE EXCEPTION 'the two patients are one already: the second was merged into the first' USING
            ERRCODE = 'object_not_in_prerequisite_state', HINT = 'cbir.merged_patient lists who was merged into whom.';
    ELSIF into_id IS NULL THEN
        INSERT INTO cbir.patient (dataset_id, pseudonym)
        VALUES (merge_in_dataset.dataset_id, into_pseudonym)
        RETURNING patient_id INTO into_id;
    END IF;
    -- In the order of an encode, so that no deadlock occurs.
    image_ids := ARRAY(
        SELECT i.image_id FROM cbir.image AS i WHERE i.patient_id = from_id ORDER BY i.image_id FOR NO KEY UPDATE
    );
    PERFORM cbir_internal.note_merge(image_ids);
    UPDATE cbir.study AS s SET patient_id = into_id WHERE s.patient_id = from_id;
    GET DIAGNOSTICS studies = ROW_COUNT;
    UPDATE cbir.image AS i SET patient_id = into_id WHERE i.image_id = ANY (image_ids);
    GET DIAGNOSTICS images = ROW_COUNT;
    UPDATE cbir.merged_patient AS m SET patient_id = into_id WHERE m.patient_id = from_id;
    UPDATE cbir.patient AS p SET sex = former.sex WHERE p.patient_id = into_id AND p.sex IS NULL;
    DELETE FROM cbir.patient AS p WHERE p.patient_id = from_id;
    INSERT INTO cbir.merged_patient (dataset_id, pseudonym, patient_id, former_patient_id)
    VALUES (merge_in_dataset.dataset_id, former.pseudonym, into_id, from_id);
    RETURN NEXT;
END
$$;

COMMENT ON FUNCTION cbir_internal.merge_in_dataset(bigint, bigint, text) IS
'Moves studies and images of a patient to another of the same dataset, and remembers the former pseudonym.';
