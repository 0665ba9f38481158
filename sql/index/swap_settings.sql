-- Title: Change settings of the server and return the old values
-- Description: Sets settings for the transaction only, because behind a pooler nothing may outlive it. To restore the
--   old values, pass the result to this function again. After an error, PostgreSQL restores them itself. The function
--   loops over an array, because loop steps run no queries and every search calls it twice.
-- Inputs: names and values in turn, as in '{jit,off,enable_sort,off}'. If a name comes twice, its last value counts.
CREATE FUNCTION cbir_internal.swap_settings(settings text[])
RETURNS text[]
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    previous text[] := '{}';
    done text;
BEGIN
    FOR place IN 1 .. cardinality(settings) BY 2 LOOP
        -- Reverse order, so that a name that comes twice gets its first value back.
        previous := ARRAY[settings[place], current_setting(settings[place])] || previous;
        done := set_config(settings[place], settings[place + 1], TRUE);
    END LOOP;
    RETURN previous;
END
$$;

COMMENT ON FUNCTION cbir_internal.swap_settings(text[]) IS
'Sets settings for this transaction and returns their previous values, in the same form.';
