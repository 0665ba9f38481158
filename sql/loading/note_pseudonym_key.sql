-- Title: Record the key of this database's pseudonyms
-- Description: Writes the key's fingerprint once: the first key stays. It runs as the owner, so that no role that loads
--   can add a second one. Two first loads at once wait for each other at the table, which no other role can lock.
-- Inputs: the key's fingerprint; NULL only asks.
-- Returns: the recorded fingerprint; NULL: none yet.
CREATE FUNCTION cbir_internal.note_pseudonym_key(fingerprint text DEFAULT NULL)
RETURNS text
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    noted text := (SELECT k.fingerprint FROM cbir.pseudonym_key AS k);
BEGIN
    PERFORM cbir_internal.refuse_maintenance();
    IF noted IS NULL AND note_pseudonym_key.fingerprint IS NOT NULL THEN
        LOCK TABLE cbir.pseudonym_key IN SHARE ROW EXCLUSIVE MODE;
        SELECT k.fingerprint INTO noted FROM cbir.pseudonym_key AS k;
        IF noted IS NULL THEN
            INSERT INTO cbir.pseudonym_key (fingerprint) VALUES (note_pseudonym_key.fingerprint);
            noted := note_pseudonym_key.fingerprint;
        END IF;
    END IF;
    RETURN noted;
END
$$;

COMMENT ON FUNCTION cbir_internal.note_pseudonym_key(text) IS
'Writes the fingerprint of the key of this database''s pseudonyms, unless there is one; returns the recorded one.';
