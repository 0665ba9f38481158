-- Title: Name of an encoder's embedding table
-- Description: Returns the table's name. If the encoder is not known, raises an error that lists the known ones.
-- Inputs: an encoder.
CREATE FUNCTION cbir_internal.embedding_table(encoder text)
RETURNS text
LANGUAGE plpgsql
STABLE
SET search_path FROM CURRENT
AS $$
DECLARE
    known text;
BEGIN
    SELECT e.table_name INTO known FROM cbir.encoder AS e WHERE e.name = embedding_table.encoder;
    IF known IS NULL THEN
        RAISE EXCEPTION 'there is no encoder "%" in this database', coalesce(encoder, 'NULL') USING
            ERRCODE = 'undefined_object',
            HINT = coalesce(
                'Encoders here: ' || cbir_internal.listed(ARRAY(SELECT e.name FROM cbir.encoder AS e ORDER BY e.name)) || '.',
                'There are no encoders yet; run: cbirdb encode -e tiny-image'
            );
    END IF;
    RETURN known;
END
$$;

COMMENT ON FUNCTION cbir_internal.embedding_table(text) IS
'Returns the name of the table in schema cbir that holds the embeddings of an encoder.';
