-- Title: Check the name of an encoder
-- Description: Refuses a name that no encoder can have. The names of the encoder's table and folders are derived from
--   it. The constraints of the tables check the same, without a hint.
-- Inputs: a name.
-- Returns: the same name.
CREATE FUNCTION cbir_internal.check_encoder_name(name text)
RETURNS text
LANGUAGE plpgsql
IMMUTABLE
SET search_path FROM CURRENT
AS $$
BEGIN
    IF name IS NULL OR name !~ '^[a-z0-9.-]{1,40}(@[0-9a-f]{8})?$' OR name !~ '^[^@]*[a-z0-9]' THEN
        RAISE EXCEPTION '"%" is not a valid encoder name', coalesce(left(name, 60), 'NULL') USING
            ERRCODE = 'invalid_name',
            HINT = 'Use 1 to 40 of the characters a-z, 0-9, "-" and ".". Optionally add "@" and 8 of 0-9, a-f.';
    END IF;
    RETURN name;
END
$$;

COMMENT ON FUNCTION cbir_internal.check_encoder_name(text) IS
'Returns the name, or raises an error if no encoder can have it.';
