-- Title: Record once how an encoder's vectors are computed
-- Description: Writes the encoder's description if there is none. An encoder whose vectors were imported has no vector
--   of the fixed picture until this database first computes vectors with it. A description is never overwritten: a site
--   that could change it would stop all others from encoding.
-- Inputs: the encoder's name; SHA-256 of its weights and of its preprocessing; provenance, what computes its vectors;
--   its unit vector of the fixed picture.
-- Returns: TRUE if the description was written; FALSE if there was one.
CREATE FUNCTION cbir_internal.describe_encoder(
    name text, weights_sha256 text, preprocessing_sha256 text, provenance jsonb, golden_embedding real[]
)
RETURNS boolean
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
BEGIN
    PERFORM cbir_internal.check_golden_embedding(
        golden_embedding, (SELECT e.dim FROM cbir.encoder AS e WHERE e.name = describe_encoder.name)
    );
    UPDATE cbir.encoder AS e
    SET
        weights_sha256 = describe_encoder.weights_sha256,
        preprocessing_sha256 = describe_encoder.preprocessing_sha256,
        provenance = describe_encoder.provenance,
        golden_embedding = describe_encoder.golden_embedding
    WHERE
        e.name = describe_encoder.name AND e.golden_embedding IS NULL AND describe_encoder.golden_embedding IS NOT NULL;
    RETURN FOUND;
END
$$;

COMMENT ON FUNCTION cbir_internal.describe_encoder(text, text, text, jsonb, real[]) IS
'Writes weights, preprocessing and the fixed picture''s vector of an encoder if they are not known yet.';
