-- Title: Patients that incoming patients were merged into
-- Description: Returns those of the pseudonyms that were merged, with the pseudonym under which their images are
--   stored. It locks the dataset against merging until the caller's transaction ends, so that the answer stays true.
--   Under row-level security it answers only for datasets that the caller sees.
-- Inputs: the dataset's name; pseudonyms of incoming patients.
CREATE FUNCTION cbir_internal.merged_pseudonym(dataset text, pseudonyms text[])
RETURNS TABLE (pseudonym text, into_pseudonym text)
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
#variable_conflict use_column
BEGIN
    PERFORM cbir_internal.refuse_maintenance();
    IF NOT cbir_internal.sees_dataset(cbir_internal.acting_role(), merged_pseudonym.dataset) THEN
        RETURN;
    END IF;
    PERFORM FROM cbir.dataset AS d WHERE d.name = merged_pseudonym.dataset FOR KEY SHARE;
    RETURN QUERY
    SELECT m.pseudonym, p.pseudonym
    FROM cbir.dataset AS d
    INNER JOIN cbir.merged_patient AS m ON m.dataset_id = d.dataset_id
    INNER JOIN cbir.patient AS p ON p.patient_id = m.patient_id
    WHERE d.name = merged_pseudonym.dataset AND m.pseudonym = ANY (pseudonyms);
END
$$;

COMMENT ON FUNCTION cbir_internal.merged_pseudonym(text, text[]) IS
'Returns which of these patients were merged, with the pseudonyms under which their images are stored.';
