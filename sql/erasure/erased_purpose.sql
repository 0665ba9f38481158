-- Title: A purpose without a pseudonym
-- Description: Each place where it stands becomes "erased", in capital or small letters. A short pseudonym must stand
--   alone: p1 is not part of p10, nor i of imaging. One as long as `cbirdb ingest` makes them (32 digits) is found
--   within a longer word, too.
-- Inputs: the purpose of a search; the pseudonym (NULL: nothing is taken out).
CREATE FUNCTION cbir_internal.erased_purpose(purpose text, pseudonym text)
RETURNS text
LANGUAGE sql
IMMUTABLE
AS $$
SELECT coalesce(
    regexp_replace(
        $1,
        -- What is no letter or digit means itself with a backslash before it.
        CASE WHEN length($2) < 32 THEN '(?<![[:alnum:]])' ELSE '' END
        || regexp_replace(nullif($2, ''), '([^[:alnum:]])', '\\\1', 'g')
        || CASE WHEN length($2) < 32 THEN '(?![[:alnum:]])' ELSE '' END,
        'erased', 'gi'
    ),
    $1
)
$$;

COMMENT ON FUNCTION cbir_internal.erased_purpose(text, text) IS
'A purpose with "erased" wherever a pseudonym stood in it.';
