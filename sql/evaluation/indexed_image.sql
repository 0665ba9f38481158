-- Title: Images that a run retrieved from
-- Description: Returns the index side of an evaluation, with patients and the labels that count, as the run's protocol,
--   split and seed select it. Images that were ingested, encoded, relabelled or erased since then would silently change
--   every figure that is derived from a stored run. In that case the function raises an error. It detects the change by
--   a sum of hashes in search_run.fingerprint, which cbirdb/db/evaluation/selection.py makes; for runs of earlier
--   versions it compares only the number of images.
-- Inputs: a finished run.
CREATE FUNCTION cbir_internal.indexed_image(run_id bigint)
RETURNS TABLE (image_id bigint, patient_id bigint, label_ids bigint[])
LANGUAGE plpgsql
STABLE
ROWS 1000000
SET search_path FROM CURRENT
AS $$
DECLARE
    run constant cbir.search_run := cbir_internal.check_run(run_id);
    tab text;
    now_indexed bigint;
    now_sum text;
BEGIN
    SELECT e.table_name INTO tab FROM cbir.encoder AS e WHERE e.encoder_id = run.encoder_id;
    EXECUTE format(
        'SELECT count(*), sum(hashtextextended(concat_ws(''/'', s.image_id, s.patient_id, s.label_ids), 0))
        FROM cbir_internal.protocol_image($1, $2, $3, $4) AS s
        INNER JOIN cbir.%I AS e ON e.image_id = s.image_id', tab
    ) INTO now_indexed, now_sum USING run.protocol, run.index_split, run.datasets, run.split_seed;
    IF now_indexed <> run.indexed_images THEN
        RAISE EXCEPTION 'run % searched % images, but the same selection has % images now', run_id, run.indexed_images, now_indexed
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Images, labels or embeddings were added or removed'
                ' after the run. Run cbirdb evaluate again.';
    ELSIF
        now_sum <> nullif(split_part(run.fingerprint, ' ', 3), '')
        -- A query's own patient, whom the run left out, may be another now. The sum is over indexed images alone.
        OR run.merged_images > 0 AND NOT run.same_patient
    THEN
        RAISE EXCEPTION 'the images that run % searched have changed since the run', run_id
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Labels or patients were changed, or images were'
                ' replaced. Run cbirdb evaluate again.';
    END IF;
    RETURN QUERY EXECUTE format(
        'SELECT s.image_id, s.patient_id, s.label_ids
        FROM cbir_internal.protocol_image($1, $2, $3, $4) AS s
        INNER JOIN cbir.%I AS e ON e.image_id = s.image_id', tab
    ) USING run.protocol, run.index_split, run.datasets, run.split_seed;
END
$$;

COMMENT ON FUNCTION cbir_internal.indexed_image(bigint) IS
'Returns the images that a run retrieved from, with patient and labels; raises an error if they have changed since.';
