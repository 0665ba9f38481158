-- Title: What remains of an erased name
-- Description: SHA-256 of a dataset's name, a zero byte, and a patient's pseudonym or an image's source. Pseudonyms
--   that `cbirdb ingest` makes are keyed (HMAC), so nobody finds them by trying; a list of sources can be tried.
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
'SHA-256 of dataset and name: what cbir.erasure_certificate and cbir.erased_image keep of an erased patient.';
