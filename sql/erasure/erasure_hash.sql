-- Title: Hash of an erased name
-- Description: Returns SHA-256 of a dataset's name, a zero byte, and a patient's pseudonym or an image's source.
--   Pseudonyms that `cbirdb ingest` makes are keyed (HMAC), so nobody can find them by trying; sources can be found by
--   trying a list.
-- Inputs: the dataset's name, the pseudonym or source.
CREATE FUNCTION cbir.erasure_hash(dataset text, name text)
RETURNS bytea
LANGUAGE sql
STABLE
PARALLEL SAFE
AS $$
SELECT sha256(convert_to($1, 'UTF8') || '\x00'::bytea || convert_to($2, 'UTF8'))
$$;

COMMENT ON FUNCTION cbir.erasure_hash(text, text) IS
'Returns SHA-256 of dataset and name, which cbir.erasure_certificate and cbir.erased_image keep of an erased patient.';
