-- Title: Check the vector of the fixed picture
-- Description: Refuses a vector that no encoder gives. Every later encoding is compared with this vector, so a wrong
--   one would stop them all.
-- Inputs: the vector (NULL: none), the encoder's dimension.
CREATE FUNCTION cbir_internal.check_golden_embedding(golden_embedding real[], dim integer)
RETURNS void
LANGUAGE plpgsql
IMMUTABLE
SET search_path FROM CURRENT
AS $$
DECLARE
    norm constant double precision := (SELECT sqrt(sum(g.x::double precision ^ 2)) FROM unnest(golden_embedding) AS g (x));
BEGIN
    IF golden_embedding IS NULL THEN
        RETURN;
    END IF;
    IF
        cardinality(golden_embedding) IS DISTINCT FROM dim
        OR array_position(golden_embedding, NULL) IS NOT NULL
        OR (abs(norm - 1) < 0.01) IS NOT TRUE
    THEN
        RAISE EXCEPTION 'the vector of the fixed picture must have % components and length 1', dim
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give the encoder''s embedding of the fixed picture, normalised.';
    END IF;
END
$$;

COMMENT ON FUNCTION cbir_internal.check_golden_embedding(real[], integer) IS
'Refuses a vector of the fixed picture whose length is not 1 or whose dimension is not the encoder''s.';
