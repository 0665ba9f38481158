-- Title: Lists of a run, with their relevance and their groups
-- Description: Returns the lists that confidence intervals are resampled from (cbirdb/metrics/bootstrap.py). A list's
--   precision at N is modified_precision(hits, N, relevant_count). A cluster is a patient, or, if patients are not
--   known, a single query image (then its number is negative). Class-wise means use the rows with a label. The mean
--   over queries uses the rows without a label if there are any (protocol any-label), and else all rows.
-- Inputs: run, class, dataset, modality or anatomic_region (of the query image); a finished run.
CREATE FUNCTION cbir.scored_list(grouped_by text, run bigint)
RETURNS TABLE (
    run_id bigint,
    group_name text,
    query_image_id bigint,
    cluster bigint,
    label_id bigint,
    relevant_count integer,
    hits smallint[]
)
LANGUAGE plpgsql
STABLE
SET search_path FROM CURRENT
AS $$
#variable_conflict use_column
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
    grouping constant text := cbir_internal.check_group(grouped_by);
    asked constant bigint := (cbir_internal.check_run(run)).run_id;
BEGIN
    RETURN QUERY
    SELECT
        q.run_id,
        cbir_internal.query_group($1, l.name, d.name, q.modality, q.anatomic_region) AS group_name,
        q.query_image_id,
        q.cluster_id,
        q.label_id,
        q.relevant_count,
        q.hits
    FROM cbir.query_hits AS q
    LEFT JOIN cbir.dataset AS d ON q.dataset_id = d.dataset_id
    LEFT JOIN cbir.label AS l ON q.label_id = l.label_id
    WHERE q.run_id = asked AND ($1 <> 'class' OR q.label_id IS NOT NULL);
END
$$;

COMMENT ON FUNCTION cbir.scored_list(text, bigint) IS
'Returns the relevance of every list of a run, with its group, patient and class, to resample for intervals.';
