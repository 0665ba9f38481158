-- Title: Check the arguments of a search by vector
-- Description: Raises an error for an unknown encoder, a bad k, an unknown mode, and a vector that this encoder cannot
--   have produced. It reads only the encoder's row.
-- Inputs: an encoder, k, a mode, a query vector.
-- Returns: the encoder's row of cbir.encoder.
CREATE FUNCTION cbir_internal.check_search(encoder text, k bigint, mode text, query vector)
RETURNS cbir.encoder
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    spec cbir.encoder;
BEGIN
    SELECT e.* INTO spec FROM cbir.encoder AS e WHERE e.name = check_search.encoder;
    IF NOT FOUND THEN
        -- Raises an error that lists the encoders that exist.
        PERFORM cbir_internal.embedding_table(encoder);
    END IF;
    PERFORM cbir_internal.checked_count('k', k);
    IF mode IS NULL OR mode NOT IN ('auto', 'exact', 'approximate') THEN
        RAISE EXCEPTION 'there is no search mode "%"', mode
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Modes: auto, exact, approximate.';
    END IF;
    IF query IS NULL THEN
        RAISE EXCEPTION 'the query vector is NULL' USING
            ERRCODE = 'invalid_parameter_value',
            HINT = 'To search with an image of the database: cbir.similar_images(encoder, image_id => 42).';
    END IF;
    IF vector_dims(query) <> spec.dim OR vector_norm(query) = 0 THEN
        -- Raises an error that says what is wrong.
        PERFORM cbir_internal.query_vector(encoder, NULL, query);
    END IF;
    RETURN spec;
END
$$;

COMMENT ON FUNCTION cbir_internal.check_search(text, bigint, text, vector) IS
'Raises an error for an encoder, a k, a mode or a query vector that no search can use; returns the encoder.';
