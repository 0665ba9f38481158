-- Title: Accuracy of kNN classification, for several k
-- Description: Returns accuracy, the share of queries whose class cbir.knn_prediction gets right, and
--   balanced_accuracy, the mean over classes of that share. Queries whose class no indexed image has count as wrong. To
--   choose k, take the one that is best on the run of the validation split, and report the run of the test split at
--   that k.
-- Reference: the same as cbir.knn_prediction.
-- Inputs: the same as cbir.knn_prediction.
CREATE FUNCTION cbir.knn_accuracy(run_id bigint, ks integer[])
RETURNS TABLE (
    k integer, accuracy double precision, balanced_accuracy double precision, queries bigint, classes bigint
)
LANGUAGE plpgsql
STABLE
SET search_path FROM CURRENT
AS $$
#variable_conflict use_column
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
    asked constant cbir.search_run := cbir_internal.check_run(run_id);
BEGIN
    RETURN QUERY
    SELECT
        of_class.k,
        sum(of_class.right_ones)::double precision / sum(of_class.queries)::double precision AS accuracy,
        avg(of_class.right_ones::double precision / of_class.queries) AS balanced_accuracy,
        sum(of_class.queries)::bigint AS queries,
        count(*) AS classes
    FROM (
        SELECT
            p.k,
            p.label_id,
            count(*) AS queries,
            count(*) FILTER (WHERE p.predicted_label_id = p.label_id) AS right_ones
        FROM cbir.knn_prediction(knn_accuracy.run_id, knn_accuracy.ks) AS p
        GROUP BY p.k, p.label_id
    ) AS of_class
    GROUP BY of_class.k
    ORDER BY of_class.k;
END
$$;

COMMENT ON FUNCTION cbir.knn_accuracy(bigint, integer[]) IS
'Returns accuracy and balanced accuracy of kNN classification from a run''s stored neighbours, for several k.';
