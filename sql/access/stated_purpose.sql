-- Title: Stated purpose of a search
-- Description: Returns the setting cbir.purpose for the audit, without white space around it. The result is NULL if the
--   setting is not set or empty; PostgreSQL leaves the empty text when a transaction that had set it ends. White space
--   alone (any of Unicode's kinds) is refused, because it says nothing. Characters that would spoil a line of a log or
--   a terminal are refused too: control characters, line separators, and characters that change the direction of
--   writing. The command line checks the same before it sends anything (cbirdb/cli/values.py).
CREATE FUNCTION cbir_internal.stated_purpose()
RETURNS text
LANGUAGE plpgsql
STABLE
SET search_path FROM CURRENT
AS $$
DECLARE
    longest constant integer := 1000;
    -- Spelled out, because the meaning of \s depends on the database's locale.
    blank constant text := '[\u0009-\u000D\u0020\u0085\u00A0\u1680\u180E\u2000-\u200D\u2028\u2029\u202F\u205F\u2060\u3000\uFEFF]';
    given constant text := nullif(current_setting('cbir.purpose', TRUE), '');
    wrong text;
BEGIN
    IF given IS NULL THEN
        RETURN NULL;
    END IF;
    IF length(given) > longest THEN
        wrong := format('is %s characters long', length(given));
    ELSIF given ~ ('^' || blank || '*$') THEN
        wrong := 'is white space alone';
    ELSIF given ~ '[\u0001-\u001F\u007F-\u009F\u2028-\u202E\u2066-\u2069]' THEN
        wrong := 'holds a line break or another control character';
    ELSE
        RETURN regexp_replace(given, '^' || blank || '+|' || blank || '+$', '', 'g');
    END IF;
    -- Without the purpose itself, because servers log errors.
    RAISE EXCEPTION 'the purpose %', wrong USING
        ERRCODE = 'invalid_parameter_value',
        HINT = format('Say in one line of at most %s characters why you do this.', longest);
END
$$;

COMMENT ON FUNCTION cbir_internal.stated_purpose() IS
'Returns the setting cbir.purpose; raises an error if it is blank, too long, or holds control characters.';
