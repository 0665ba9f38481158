-- Title: Check numbers of neighbours against a stored run
-- Description: Refuses numbers beyond the run's k. The run cut its lists there, so nothing is known beyond, and to
--   count that as a miss would be wrong.
-- Inputs: the name of the argument (N, k), the numbers (NULL: those of 1, 3, 5 and 10 that are at most the run's k), a
--   run.
CREATE FUNCTION cbir_internal.checked_cutoffs(named text, cutoffs integer[], run_id bigint)
RETURNS integer[]
LANGUAGE plpgsql
STABLE
SET search_path FROM CURRENT
AS $$
DECLARE
    kept constant integer := (SELECT r.k FROM cbir.search_run AS r WHERE r.run_id = checked_cutoffs.run_id);
    wrong text := (
        SELECT coalesce(c.cutoff::text, 'NULL') FROM unnest(cutoffs) AS c (cutoff)
        WHERE c.cutoff IS NULL OR c.cutoff < 1 OR c.cutoff > kept
        LIMIT 1
    );
BEGIN
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION '% must lie between 1 and %, the number of neighbours that run % stored, not %', named, kept, run_id, wrong
            USING ERRCODE = 'invalid_parameter_value', HINT = 'To store more neighbours, run: cbirdb evaluate -e ENCODER -k NUMBER';
    END IF;
    RETURN coalesce(cutoffs, ARRAY(SELECT c.cutoff FROM unnest('{1, 3, 5, 10}'::integer[]) AS c (cutoff) WHERE c.cutoff <= kept));
END
$$;

COMMENT ON FUNCTION cbir_internal.checked_cutoffs(text, integer[], bigint) IS
'Returns the numbers, or raises an error if one is not between 1 and the k of the run.';
