-- Title: Find the vector that a search starts from
-- Description: Returns an image's stored embedding, or the given vector if it fits the encoder.
-- Inputs: an encoder, an image's id (NULL: a vector is given), a vector.
CREATE FUNCTION cbir_internal.query_vector(encoder text, image_id bigint, query vector)
RETURNS vector
LANGUAGE plpgsql
STABLE
SET search_path FROM CURRENT
AS $$
DECLARE
    spec cbir.encoder;
    stored vector;
BEGIN
    SELECT e.* INTO spec FROM cbir.encoder AS e WHERE e.name = query_vector.encoder;
    IF NOT FOUND THEN
        -- Raises an error that lists the encoders that exist.
        PERFORM cbir_internal.embedding_table(encoder);
    END IF;
    IF image_id IS NOT NULL THEN
        EXECUTE format('SELECT e.embedding::vector FROM cbir.%I AS e WHERE e.image_id = $1', spec.table_name)
            INTO stored
            USING image_id;
        IF stored IS NULL THEN
            RAISE EXCEPTION 'image % has no embedding of encoder "%"', image_id, encoder USING
                ERRCODE = 'no_data_found',
                HINT = format(
                    CASE spec.spec ->> 'family'
                        WHEN 'imported' THEN 'Import its embeddings: cbirdb import-embeddings -e %s FILE.h5'
                        ELSE 'Run: cbirdb encode -e %s'
                    END, encoder);
        END IF;
        RETURN stored;
    ELSIF vector_dims(query) <> spec.dim THEN
        RAISE EXCEPTION 'a query vector of encoder "%" must have % dimensions, not %',
            encoder, spec.dim, vector_dims(query)
            USING ERRCODE = 'invalid_parameter_value',
            HINT = coalesce(
                format('Encoders here with %s dimensions: ', vector_dims(query)) || cbir_internal.listed(ARRAY(
                    SELECT e.name FROM cbir.encoder AS e WHERE e.dim = vector_dims(query) ORDER BY e.name
                )) || '.',
                'No encoder here has this number of dimensions.'
            );
    ELSIF vector_norm(query) = 0 THEN
        RAISE EXCEPTION 'a query vector must not consist of zeros'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Cosine distance compares directions, and this vector has none.';
    END IF;
    RETURN (query);
END
$$;

COMMENT ON FUNCTION cbir_internal.query_vector(text, bigint, vector) IS
'Returns the stored embedding of an image, or the given vector if it has the encoder''s dimension and a direction.';
