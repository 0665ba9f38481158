-- Title: Set settings of the server, and return what they were
-- Description: For the transaction only, as behind a pooler nothing may outlive it; what it returns, given to it
--   again, puts everything back. After an error PostgreSQL itself does.
-- Inputs: names and values; NULL: none.
CREATE FUNCTION cbir.swap_settings(settings jsonb)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    setting record;
    previous jsonb := '{}';
BEGIN
    FOR setting IN SELECT s.key, s.value FROM jsonb_each_text(settings) AS s LOOP
        previous := previous || jsonb_build_object(setting.key, current_setting(setting.key));
        PERFORM set_config(setting.key, setting.value, TRUE);
    END LOOP;
    RETURN previous;
END
$$;

COMMENT ON FUNCTION cbir.swap_settings(jsonb) IS
'Sets settings for this transaction and returns their previous values, in the same form.';
