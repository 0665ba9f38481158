-- Title: Which images may not come back
-- Description: Of a list of images to be brought in, those of erased patients: by the patient's pseudonym, or by the
--   image itself where a list does not tell patients apart. Under row-level security it answers for datasets that the
--   caller sees, and is silent on others: names of files can be guessed.
-- Inputs: the dataset's name; the images' sources, and for each its patient's pseudonym (NULL: unknown); whether both
--   must have been erased: where it is asked whether a dataset of another name holds the same, as numbers of patients
--   and names of files alone repeat themselves.
CREATE FUNCTION cbir_internal.erased_source(
    dataset text, sources text[], pseudonyms text[], both_erased boolean DEFAULT FALSE
)
RETURNS SETOF text
LANGUAGE plpgsql
STABLE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
BEGIN
    PERFORM cbir_internal.refuse_maintenance();
    IF
        EXISTS (SELECT FROM cbir.erasure_certificate)
        AND cbir_internal.sees_dataset(cbir_internal.acting_role(), erased_source.dataset)
    THEN
        RETURN QUERY
        SELECT given.source
        FROM (
            SELECT
                g.source,
                EXISTS (
                    SELECT FROM cbir.erased_image AS e
                    WHERE e.source_sha256 = cbir.erasure_hash(erased_source.dataset, g.source)
                ) AS by_source,
                EXISTS (
                    SELECT FROM cbir.erasure_certificate AS c
                    WHERE c.pseudonym_sha256 = cbir.erasure_hash(erased_source.dataset, g.pseudonym)
                ) AS by_patient
            FROM unnest(sources, pseudonyms) AS g (source, pseudonym)
        ) AS given
        WHERE
            CASE
                WHEN both_erased THEN given.by_source AND given.by_patient
                ELSE given.by_source OR given.by_patient
            END;
    END IF;
END
$$;

COMMENT ON FUNCTION cbir_internal.erased_source(text, text[], text[], boolean) IS
'Of images to be brought in, the sources of those whose patient has been erased.';
