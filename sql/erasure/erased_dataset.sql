-- Title: Datasets with erased patients
-- Description: Returns names of datasets for an ingest that checks whether an erased patient is about to come back
--   under another pseudonym: pseudonyms are made of a dataset's name and a patient's number. Under row-level security
--   it returns only datasets that the caller sees.
CREATE FUNCTION cbir_internal.erased_dataset()
RETURNS SETOF text
LANGUAGE plpgsql
STABLE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
BEGIN
    PERFORM cbir_internal.refuse_maintenance();
    RETURN QUERY
    SELECT c.dataset
    FROM (SELECT DISTINCT e.dataset FROM cbir.erasure_certificate AS e) AS c
    WHERE cbir_internal.sees_dataset(cbir_internal.acting_role(), c.dataset)
    ORDER BY c.dataset;
END
$$;

COMMENT ON FUNCTION cbir_internal.erased_dataset() IS
'Returns the names of the datasets that have a certificate of erasure.';
