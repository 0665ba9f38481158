-- Title: Set settings of the server, and return what they were
-- Description: For the transaction only, as behind a pooler nothing may outlive it; what it returns, given to it
--   again, puts everything back. After an error PostgreSQL itself does. A loop over an array, whose steps are no
--   queries: every search passes here twice.
-- Inputs: names and values in turn, as in '{jit,off,enable_sort,off}'; where a name comes twice the last value counts.
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
        -- Put back in reverse.
        previous := ARRAY[settings[place], current_setting(settings[place])] || previous;
        done := set_config(settings[place], settings[place + 1], TRUE);
    END LOOP;
    RETURN previous;
END
$$;

COMMENT ON FUNCTION cbir_internal.swap_settings(text[]) IS
'Sets settings for this transaction and returns their previous values, in the same form.';
