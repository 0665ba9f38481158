-- Title: Record how DICOM is shown to an encoder
-- Description: Writes the hash of an encoder's rendering when its first DICOM image is encoded. One table must not mix
--   vectors of two renderings, so another hash later is an error.
-- Inputs: an encoder; the SHA-256 of its rendering, in hex.
CREATE FUNCTION cbir_internal.note_rendering(encoder text, hash text)
RETURNS void
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    known text;
BEGIN
    IF hash IS NULL OR hash !~ '^[0-9a-f]{64}$' THEN
        RAISE EXCEPTION 'a rendering has a SHA-256 of 64 hexadecimal digits' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    UPDATE cbir.encoder AS e SET rendering_sha256 = hash
    WHERE e.name = note_rendering.encoder AND e.rendering_sha256 IS NULL;
    SELECT e.rendering_sha256 INTO known FROM cbir.encoder AS e WHERE e.name = note_rendering.encoder;
    IF known IS DISTINCT FROM hash THEN
        RAISE EXCEPTION 'the DICOM images of this encoder were encoded with another rendering' USING
            ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Use the same rendering, or another encoder name.';
    END IF;
END
$$;

COMMENT ON FUNCTION cbir_internal.note_rendering(text, text) IS
'Records how DICOM is shown to an encoder; refuses another rendering later.';
