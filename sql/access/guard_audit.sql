-- Title: Keep the search audit append-only
-- Description: Refuses every change of the audit except an erasure's (trigger function of this table alone; on another
--   table it would reveal whether an image exists). An erasure makes the change that redacted_search computes: it
--   removes ids of images, studies and patients that no longer exist, each in its place, and nothing else. It may also
--   remove from a purpose the pseudonym that the setting cbir.erased_pseudonym names (see redact_audit), if that
--   pseudonym has a certificate of erasure. No other word can be removed. A role that may alter the table can drop the
--   trigger.
CREATE OR REPLACE FUNCTION cbir_internal.guard_audit()
RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    images bigint[];
    studies bigint[];
    patients bigint[];
    pseudonym text;
    expected cbir.search_audit;
BEGIN
    IF TG_OP = 'UPDATE' AND TG_RELID = 'cbir.search_audit'::regclass THEN
        images := ARRAY(
            SELECT o.image_id FROM unnest(cbir_internal.searched_images(old)) AS o (image_id)
            WHERE o.image_id <> ALL (cbir_internal.searched_images(new))
        );
        IF new.filter -> 'study_id' = '"erased"' AND jsonb_typeof(old.filter -> 'study_id') = 'number' THEN
            studies := ARRAY[(old.filter -> 'study_id')::bigint];
        END IF;
        IF new.filter -> 'without_patient' = '"erased"' AND jsonb_typeof(old.filter -> 'without_patient') = 'number' THEN
            patients := ARRAY[(old.filter -> 'without_patient')::bigint];
        END IF;
        IF new.purpose IS DISTINCT FROM old.purpose THEN
            SELECT p.erased INTO pseudonym
            FROM (SELECT current_setting('cbir.erased_pseudonym', TRUE) AS erased) AS p
            WHERE EXISTS (
                SELECT FROM cbir.erasure_certificate AS c
                WHERE c.pseudonym_sha256 = cbir.erasure_hash(c.dataset, p.erased)
            );
        END IF;
        expected := cbir_internal.redacted_search(old, images, coalesce(studies, '{}'), coalesce(patients, '{}'), pseudonym);
        IF
            new IS NOT DISTINCT FROM expected
            AND new IS DISTINCT FROM old
            AND (cardinality(images) > 0 OR studies IS NOT NULL OR patients IS NOT NULL OR pseudonym IS NOT NULL)
            AND NOT EXISTS (SELECT FROM cbir.image AS i WHERE i.image_id = ANY (images))
            AND NOT EXISTS (SELECT FROM cbir.study AS st WHERE st.study_id = ANY (studies))
            AND NOT EXISTS (SELECT FROM cbir.patient AS p WHERE p.patient_id = ANY (patients))
        THEN
            RETURN new;
        END IF;
    END IF;
    RAISE EXCEPTION 'rows of the search audit cannot be changed or deleted' USING
        ERRCODE = 'insufficient_privilege',
        HINT = 'Only the erasure of a patient changes them: it removes the pseudonym and the ids of the patient''s images.';
END
$$;

COMMENT ON FUNCTION cbir_internal.guard_audit() IS
'Refuses every change of cbir.search_audit except the removal of erased data (trigger function).';
