-- Title: Remove a pseudonym from a purpose
-- Description: Replaces each occurrence of the pseudonym by "erased", in upper or lower case. A short pseudonym must be
--   a whole word: p1 is not part of p10, nor i of imaging. One as long as `cbirdb ingest` makes them (32 digits) is
--   also found within a longer word.
-- Inputs: the purpose of a search; the pseudonym (NULL: nothing is removed).
CREATE FUNCTION cbir_internal.erased_purpose(purpose text, pseudonym text)
RETURNS text
LANGUAGE sql
IMMUTABLE
AS $$
SELECT coalesce(
    regexp_replace(
        $1,
        -- A backslash makes every character that is no letter or digit literal.
        CASE WHEN length($2) < 32 THEN '(?<![[:alnum:]])' ELSE '' END
        || regexp_replace(nullif($2, ''), '([^[:alnum:]])', '\\\1', 'g')
        || CASE WHEN length($2) < 32 THEN '(?![[:alnum:]])' ELSE '' END,
        'erased', 'gi'
    ),
    $1
)
$$;

COMMENT ON FUNCTION cbir_internal.erased_purpose(text, text) IS
'Returns a purpose with "erased" in place of a pseudonym.';
