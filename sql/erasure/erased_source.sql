-- Title: Find incoming images of erased patients
-- Description: Returns the sources of those incoming images that belong to erased patients. It finds them by the
--   patient's pseudonym, or by the image itself if a list has no patients. Under row-level security it answers only for
--   datasets that the caller sees and returns nothing for others, because names of files can be guessed.
-- Inputs: the dataset's name; the images' sources, and for each its patient's pseudonym (NULL: unknown); both_erased,
--   TRUE if both source and pseudonym must have been erased. Use TRUE to check a dataset under another name, because
--   patient numbers and file names alone repeat across datasets.
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
'Returns the sources of those incoming images whose patient has been erased.';
