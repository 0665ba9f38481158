-- Title: Sums of precision at N per patient and class
-- Description: What confidence intervals are resampled from (cbirdb/resampling.py). A cluster is a patient, or, where
--   patients are not known, a single query image (then its number is negative). Rows with a label add up to class-wise
--   means; the mean over queries is that of the rows without a label where there are any (protocol any-label), and else
--   of all rows.
-- Inputs: run, class, dataset, modality or anatomic_region (of the query image).
-- Note: plain SQL that the planner inlines, so that a condition on run_id or n reaches the stored results.
CREATE FUNCTION cbir.precision_cell(grouped_by text)
RETURNS TABLE (
    run_id bigint, group_name text, n integer, cluster bigint, label_id bigint, total double precision, number bigint
)
LANGUAGE sql
STABLE
PARALLEL SAFE
AS $$
SELECT
    qp.run_id,
    cbir.query_group($1, l.name, d.name, i.modality, i.anatomic_region) AS group_name,
    qp.n,
    coalesce(i.patient_id, -i.image_id) AS cluster,
    qp.label_id,
    sum(qp.precision_at_n) AS total,
    count(*) AS number
FROM (
    SELECT p.run_id, p.query_image_id, p.label_id, p.n, p.precision_at_n FROM cbir.query_precision_by_label AS p
    UNION ALL
    SELECT p.run_id, p.query_image_id, p.label_id, p.n, p.precision_at_n
    FROM cbir.query_precision AS p
    WHERE p.label_id IS NULL AND $1 <> 'class'
) AS qp
INNER JOIN cbir.image AS i ON i.image_id = qp.query_image_id
INNER JOIN cbir.dataset AS d ON d.dataset_id = i.dataset_id
LEFT JOIN cbir.label AS l ON l.label_id = qp.label_id
GROUP BY qp.run_id, group_name, qp.n, coalesce(i.patient_id, -i.image_id), qp.label_id
$$;

COMMENT ON FUNCTION cbir.precision_cell(text) IS
'Sum and number of the queries'' precision at N per run, group, patient and class: what is resampled for intervals.';
