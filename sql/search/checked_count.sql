-- Title: Check a number of results
-- Description: Returns the number as an integer. Public functions take bigint, so that a client's integer and bigint
--   parameters both fit without a cast, and a number that is too large gets a clear error instead of "function does not
--   exist".
-- Inputs: the name of the argument (k, m), and the number.
CREATE FUNCTION cbir_internal.checked_count(named text, number bigint)
RETURNS integer
LANGUAGE plpgsql
IMMUTABLE
SET search_path FROM CURRENT
AS $$
DECLARE
    largest constant integer := 10000;
BEGIN
    IF number IS NULL OR number < 1 OR number > largest THEN
        RAISE EXCEPTION '% must lie between 1 and %, not %', named, largest, coalesce(number::text, 'NULL') USING
            ERRCODE = 'invalid_parameter_value',
            HINT = format('Omit %s to use its default, or narrow the search by filters.', named);
    END IF;
    RETURN number::integer;
END
$$;

COMMENT ON FUNCTION cbir_internal.checked_count(text, bigint) IS
'Returns the number, or raises an error if it is not between 1 and 10,000.';
