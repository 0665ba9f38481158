-- Title: Check a run
-- Description: Refuses a run that does not exist. An unknown run would give no rows, which looks like a run without
--   queries. Under row-level security a hidden run does not exist.
-- Inputs: a run.
CREATE FUNCTION cbir_internal.check_run(run_id bigint)
RETURNS cbir.search_run
LANGUAGE plpgsql
STABLE
SET search_path FROM CURRENT
AS $$
DECLARE
    run cbir.search_run;
BEGIN
    SELECT r.* INTO run FROM cbir.search_run AS r WHERE r.run_id = check_run.run_id AND r.finished_at IS NOT NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no finished run %', coalesce(run_id::text, 'NULL') USING
            ERRCODE = 'no_data_found',
            HINT = coalesce(
                'Finished runs: ' || cbir_internal.listed(ARRAY(
                    SELECT r.run_id::text FROM cbir.search_run AS r
                    WHERE r.finished_at IS NOT NULL ORDER BY r.run_id DESC
                )) || '.',
                'There are no finished runs yet; run: cbirdb evaluate -e ENCODER'
            );
    END IF;
    RETURN run;
END
$$;

COMMENT ON FUNCTION cbir_internal.check_run(bigint) IS
'Returns the row of a finished run, or raises an error if there is none of this number.';
