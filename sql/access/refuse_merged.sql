-- Title: Refuse patients who were merged into another
-- Description: Refuses a row by which a patient who was merged would appear as a second person again, whoever writes it
--   (trigger function of cbir.patient alone; on another table it would reveal who was merged). `cbirdb ingest` looks
--   merged patients up before (cbir_internal.merged_pseudonym).
CREATE OR REPLACE FUNCTION cbir_internal.refuse_merged()
RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    merged boolean;
BEGIN
    IF TG_RELID <> 'cbir.patient'::regclass THEN
        RAISE EXCEPTION 'cbir_internal.refuse_merged is a trigger function for cbir.patient only' USING
            ERRCODE = 'insufficient_privilege';
    ELSIF TG_LEVEL = 'ROW' THEN
        merged := EXISTS (
            SELECT FROM cbir.merged_patient AS m
            WHERE m.dataset_id = new.dataset_id AND m.pseudonym = new.pseudonym
        );
    ELSE
        merged := EXISTS (
            SELECT FROM added AS a
            INNER JOIN cbir.merged_patient AS m ON m.dataset_id = a.dataset_id AND m.pseudonym = a.pseudonym
        );
    END IF;
    IF merged THEN
        RAISE EXCEPTION 'a patient who was merged into another cannot be added again' USING
            ERRCODE = 'integrity_constraint_violation',
            HINT = 'cbir.merged_patient lists them; cbirdb ingest stores their files with the other patient.';
    END IF;
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION cbir_internal.refuse_merged() IS
'Refuses rows of patients who were merged into another (trigger function).';
