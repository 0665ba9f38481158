-- Title: Sums of two runs' precision at N over the same queries, per patient and class
-- Description: Returns the sums that a paired comparison of two encoders resamples: over the queries that both runs
--   score, with the labels that the queries share in both. Clusters and rows without a label are those of
--   cbir.scored_list.
-- Inputs: two finished runs; values of N.
CREATE FUNCTION cbir.paired_precision_cell(run_a bigint, run_b bigint, cutoffs integer[])
RETURNS TABLE (
    n integer, cluster bigint, label_id bigint, total_a double precision, total_b double precision, number bigint
)
LANGUAGE plpgsql
STABLE
SET search_path FROM CURRENT
AS $$
#variable_conflict use_column
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
BEGIN
    PERFORM cbir_internal.check_run(run_a), cbir_internal.check_run(run_b);
    RETURN QUERY
    WITH scored AS (
        SELECT p.run_id, p.query_image_id, p.label_id, p.n, p.precision_at_n
        FROM cbir.query_precision_by_label AS p
        WHERE p.run_id IN ($1, $2) AND p.n = any($3)
        UNION ALL
        SELECT p.run_id, p.query_image_id, p.label_id, p.n, p.precision_at_n
        FROM cbir.query_precision AS p
        WHERE p.label_id IS NULL AND p.run_id IN ($1, $2) AND p.n = any($3)
    )
    SELECT
        a.n,
        coalesce(i.patient_id, -i.image_id) AS cluster,
        a.label_id,
        sum(a.precision_at_n) AS total_a,
        sum(b.precision_at_n) AS total_b,
        count(*) AS number
    FROM scored AS a
    INNER JOIN scored AS b
        ON b.query_image_id = a.query_image_id AND b.n = a.n AND b.label_id IS NOT DISTINCT FROM a.label_id
    INNER JOIN cbir.image AS i ON i.image_id = a.query_image_id
    WHERE a.run_id = $1 AND b.run_id = $2
    GROUP BY a.n, coalesce(i.patient_id, -i.image_id), a.label_id;
END
$$;

COMMENT ON FUNCTION cbir.paired_precision_cell(bigint, bigint, integer[]) IS
'Sums two runs'' precision at N over the queries that both score, per patient and class.';
