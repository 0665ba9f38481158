-- Title: Register an encoder
-- Description: Adds the encoder's row and its embedding table if they do not exist. It changes nothing that exists,
--   because all sites share an encoder. It runs as the owner: a role that ingests may only read cbir.encoder. The
--   table's name is derived from the encoder's name, never given.
-- Inputs: the encoder's name; dimension and precision (half, single) of its vectors; licence; SHA-256 of its weights
--   and of its preprocessing; its record; provenance, what computes its vectors; its unit vector of the fixed picture
--   (NULL: its vectors are imported).
-- Returns: TRUE if an encoder of this name exists now; FALSE if another encoder has the table that it would get.
CREATE FUNCTION cbir_internal.register_encoder(
    name text,
    dim integer,
    stored_precision text,
    licence text,
    weights_sha256 text,
    preprocessing_sha256 text,
    spec jsonb,
    provenance jsonb,
    golden_embedding real[] DEFAULT NULL
)
RETURNS boolean
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM cbir.encoder AS e WHERE e.name = register_encoder.name) THEN
        PERFORM cbir_internal.check_golden_embedding(golden_embedding, dim);
        -- Limited, because each command of each site reads these fields.
        IF
            (jsonb_typeof(spec) = 'object' AND jsonb_typeof(provenance) = 'object') IS NOT TRUE
            OR octet_length(concat(spec, provenance, licence, weights_sha256, preprocessing_sha256)) > 50000
        THEN
            RAISE EXCEPTION 'this description of an encoder is not valid' USING
                ERRCODE = 'invalid_parameter_value',
                HINT = 'spec and provenance must be JSON objects; all fields together may have at most 50,000 bytes.';
        END IF;
    END IF;
    INSERT INTO cbir.encoder (
        name, table_name, dim, precision, licence, weights_sha256, preprocessing_sha256, spec, provenance, golden_embedding
    )
    VALUES (
        cbir_internal.check_encoder_name(register_encoder.name),
        'embedding_' || btrim(regexp_replace(register_encoder.name, '[^a-z0-9]+', '_', 'g'), '_'),
        register_encoder.dim, stored_precision, register_encoder.licence, register_encoder.weights_sha256,
        register_encoder.preprocessing_sha256, register_encoder.spec, register_encoder.provenance,
        register_encoder.golden_embedding
    )
    ON CONFLICT DO NOTHING;
    IF NOT EXISTS (SELECT FROM cbir.encoder AS e WHERE e.name = register_encoder.name) THEN
        RETURN FALSE;
    END IF;
    PERFORM cbir_internal.create_embedding_table(register_encoder.name);
    RETURN TRUE;
END
$$;

COMMENT ON FUNCTION cbir_internal.register_encoder(text, integer, text, text, text, text, jsonb, jsonb, real[]) IS
'Adds an encoder and its embedding table if they do not exist; returns FALSE if another encoder has that table.';
