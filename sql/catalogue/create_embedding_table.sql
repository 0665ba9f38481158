-- Title: Create the embedding table of an encoder
-- Description: Creates one narrow table per encoder, embedding_<encoder>, with one unit vector per image. STORAGE PLAIN
--   keeps vectors in the row, because TOASTed ones load five times slower. A constraint checks the norm, because a zero
--   or unnormalised vector would vanish from a cosine index or distort comparisons. The function runs as the owner, so
--   the role that ingests need not own anything. The table gets the grants and the policies of the other embedding
--   tables.
-- Inputs: the encoder's name (its row in cbir.encoder must exist).
-- Returns: the table.
CREATE FUNCTION cbir_internal.create_embedding_table(encoder text)
RETURNS regclass
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    spec cbir.encoder;
    -- pgvector keeps an indexed vector on one page: 8 kB hold 2,000 single or 4,000 half precision components.
    max_dim integer;
BEGIN
    SELECT e.* INTO spec FROM cbir.encoder AS e WHERE e.name = create_embedding_table.encoder;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no encoder "%"', encoder USING
            ERRCODE = 'undefined_object', HINT = 'Insert its row into cbir.encoder first.';
    END IF;
    IF to_regclass(format('cbir.%I', spec.table_name)) IS NOT NULL THEN
        -- No ALTER TABLE here: it would wait for every reader, and new readers would wait for it.
        RETURN format('cbir.%I', spec.table_name)::regclass;
    END IF;
    max_dim := CASE spec.precision WHEN 'half' THEN 4000 ELSE 2000 END;
    IF spec.dim > max_dim THEN
        RAISE EXCEPTION 'encoder "%" has % dimensions, but an index of % precision vectors supports at most %',
            encoder, spec.dim, spec.precision, max_dim
            USING ERRCODE = 'program_limit_exceeded', HINT = 'Half precision supports up to 4,000 dimensions.';
    END IF;
    EXECUTE format(
        'CREATE TABLE IF NOT EXISTS cbir.%1$I (
            image_id bigint PRIMARY KEY REFERENCES cbir.image ON DELETE CASCADE,
            embedding %2$s(%3$s) NOT NULL CONSTRAINT %4$I CHECK (abs(%5$s(embedding) - 1) < 0.01)
        )',
        spec.table_name,
        CASE spec.precision WHEN 'half' THEN 'halfvec' ELSE 'vector' END,
        spec.dim,
        left(spec.table_name, 53) || '_unit_norm',
        CASE spec.precision WHEN 'half' THEN 'l2_norm' ELSE 'vector_norm' END
    );
    EXECUTE format('ALTER TABLE cbir.%I ALTER COLUMN embedding SET STORAGE PLAIN', spec.table_name);
    EXECUTE format(
        'COMMENT ON TABLE cbir.%I IS %L',
        spec.table_name, format('L2-normalised embeddings of encoder %s, one per image.', encoder)
    );
    PERFORM cbir_internal.grant_table(format('cbir.%I', spec.table_name)::regclass);
    IF (SELECT s.enabled FROM cbir.setting AS s WHERE s.name = 'row_security') THEN
        PERFORM cbir_internal.protect_table(format('cbir.%I', spec.table_name)::regclass, TRUE);
    END IF;
    RETURN format('cbir.%I', spec.table_name)::regclass;
END
$$;

COMMENT ON FUNCTION cbir_internal.create_embedding_table(text) IS
'Creates the embedding table of a registered encoder if it does not exist.';
