-- Title: Which images may not come back
-- Description: Of a list of images to be brought in, those of erased patients: by the patient's pseudonym, or by the
--   image itself where a list does not tell patients apart. Under row-level security it answers for datasets that the
--   caller sees, and is silent on others: names of files can be guessed.
-- Inputs: the dataset's name; the images' sources, and for each its patient's pseudonym (NULL: unknown).
CREATE FUNCTION cbir.erased_source(dataset text, sources text[], pseudonyms text[])
RETURNS SETOF text
LANGUAGE plpgsql
STABLE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
BEGIN
    IF
        EXISTS (SELECT FROM cbir.erasure_certificate)
        AND cbir.sees_dataset(cbir.acting_role(), erased_source.dataset)
    THEN
        RETURN QUERY
        SELECT given.source
        FROM unnest(sources, pseudonyms) AS given (source, pseudonym)
        WHERE
            cbir.erasure_hash(erased_source.dataset, given.source) IN (
                SELECT e.source_sha256 FROM cbir.erased_image AS e
            )
            OR cbir.erasure_hash(erased_source.dataset, given.pseudonym) IN (
                SELECT c.pseudonym_sha256 FROM cbir.erasure_certificate AS c
            );
    END IF;
END
$$;

REVOKE ALL ON FUNCTION cbir.erased_source(text, text[], text[]) FROM public;

COMMENT ON FUNCTION cbir.erased_source(text, text[], text[]) IS
'Of images to be brought in, the sources of those whose patient has been erased.';
