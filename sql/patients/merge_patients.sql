-- Title: Merge two patients
-- Description: Makes one patient of two who turned out to be one person, in every dataset that has the first. Studies
--   and images of the first become those of the second, whom the function adds where only the first is there. A later
--   ingest of the first patient's files stores them with the second. A second patient who was merged before stands for
--   the patient that he was merged into. It cannot be undone. All or nothing: one dataset that refuses stops all.
--     SELECT * FROM cbir.merge_patients('0a1b2c...', '3d4e5f...', 'mimic');
-- Inputs: pseudonyms, as in cbir.patient: of the patient who goes, and of the one who stays; a dataset's name (NULL:
--   every dataset that has the first).
-- Returns: a row per dataset, with the numbers of studies and images that moved.
CREATE FUNCTION cbir.merge_patients(from_pseudonym text, into_pseudonym text, dataset text DEFAULT NULL)
RETURNS TABLE (dataset_name text, studies bigint, images bigint)
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    place record;
    merged boolean := FALSE;
BEGIN
    IF from_pseudonym = into_pseudonym THEN
        RAISE EXCEPTION 'a patient cannot be merged into itself' USING
            ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Give the pseudonyms of two patients.';
    END IF;
    -- Waits for ingests that have looked merged patients up, and keeps others from doing so until this is over.
    PERFORM FROM cbir.dataset AS d
    WHERE
        (merge_patients.dataset IS NULL OR d.name = merge_patients.dataset)
        AND EXISTS (
            SELECT FROM cbir.patient AS p WHERE p.dataset_id = d.dataset_id AND p.pseudonym = from_pseudonym
        )
    ORDER BY d.dataset_id
    FOR UPDATE OF d;
    -- In the order of an erasure, so that no deadlock occurs.
    PERFORM FROM cbir.patient AS p
    WHERE
        p.pseudonym IN (from_pseudonym, into_pseudonym)
        OR p.patient_id IN (SELECT m.patient_id FROM cbir.merged_patient AS m WHERE m.pseudonym = into_pseudonym)
    ORDER BY p.patient_id
    FOR UPDATE;
    IF NOT EXISTS (
        SELECT FROM cbir.patient AS p WHERE p.pseudonym = into_pseudonym
        UNION ALL
        SELECT FROM cbir.merged_patient AS m WHERE m.pseudonym = into_pseudonym
    ) THEN
        PERFORM cbir_internal.refuse_merge(into_pseudonym, 'second', NULL);
    END IF;
    FOR place IN
        SELECT d.dataset_id, d.name, p.patient_id
        FROM cbir.dataset AS d
        INNER JOIN cbir.patient AS p ON p.dataset_id = d.dataset_id AND p.pseudonym = from_pseudonym
        WHERE merge_patients.dataset IS NULL OR d.name = merge_patients.dataset
        ORDER BY d.dataset_id
    LOOP
        merged := TRUE;
        dataset_name := place.name;
        SELECT o.studies, o.images INTO studies, images
        FROM cbir_internal.merge_in_dataset(place.dataset_id, place.patient_id, into_pseudonym) AS o;
        RETURN NEXT;
    END LOOP;
    IF NOT merged THEN
        PERFORM cbir_internal.refuse_merge(from_pseudonym, 'first', merge_patients.dataset);
    END IF;
END
$$;

COMMENT ON FUNCTION cbir.merge_patients(text, text, text) IS
'Makes one patient of two: studies and images of the first become those of the second, also at later ingests.';
