-- Title: Take what was erased out of the audit of searches
-- Description: Part of cbir.erase_patient, and its last step: the audit's guard lets go of ids that name nothing.
-- Inputs: ids of images, studies and patients that are no longer there.
CREATE FUNCTION cbir.redact_audit(image_ids bigint[], study_ids bigint[], patient_ids bigint[])
RETURNS bigint
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    number bigint;
BEGIN
    UPDATE cbir.search_audit AS a
    SET (query_image_id, returned, filter, erased_ids) = (
        SELECT r.query_image_id, r.returned, r.filter, r.erased_ids
        FROM cbir.redacted_search(a, image_ids, study_ids, patient_ids) AS r
    )
    WHERE
        a.query_image_id = ANY (image_ids) OR a.returned && image_ids
        OR a.filter ?| '{image_ids,without_image}' AND cbir.searched_images(a) && image_ids
        OR to_jsonb(study_ids) @> (a.filter -> 'study_id')
        OR to_jsonb(patient_ids) @> (a.filter -> 'without_patient');
    GET DIAGNOSTICS number = ROW_COUNT;
    RETURN number;
END
$$;

COMMENT ON FUNCTION cbir.redact_audit(bigint[], bigint[], bigint[]) IS
'Takes ids of erased images, studies and patients out of cbir.search_audit; returns the number of rows.';
