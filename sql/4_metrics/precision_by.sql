-- Title: Precision at N, summarised over the queries of a group
-- Description: micro = mean over queries ("sample-wise"); macro = mean over classes of the class's mean
--   ("class-wise"). Standard deviations are those of a sample (n - 1): micro_std over queries, macro_std the mean
--   over classes of the deviation within a class; a class with one query has no deviation and is left out of it.
-- Reference: the paper's authors' code (MIC-DKFZ/foundation-models-for-cbmir).
--   Under the protocol any-label a query has several classes: micro counts it once, by sharing any of its labels, macro
--   once for each class, by sharing that.
-- Inputs: run, class, dataset, modality or anatomic_region (of the query image).
-- Note: plain SQL that the planner inlines, so that a condition on run_id or n reaches the stored results.
CREATE FUNCTION cbir.precision_by(grouped_by text)
RETURNS TABLE (
    run_id bigint,
    encoder text,
    group_name text,
    n integer,
    micro_precision double precision,
    micro_std double precision,
    macro_precision double precision,
    macro_std double precision,
    queries bigint,
    classes bigint,
    mode text,
    ann_recall double precision
)
LANGUAGE sql
STABLE
AS $$
SELECT
    of_class.run_id,
    e.name AS encoder,
    of_class.group_name,
    of_class.n,
    coalesce(max(whole.mean), max(of_class.micro)) AS micro_precision,
    coalesce(max(whole.deviation), CASE
        WHEN sum(of_class.queries) > 1 THEN sqrt(sum(
            coalesce(of_class.deviation ^ 2, 0) * (of_class.queries - 1)
            + of_class.queries * (of_class.mean - of_class.micro) ^ 2
        ) / (sum(of_class.queries) - 1)::double precision)
    END) AS micro_std,
    avg(of_class.mean) AS macro_precision,
    avg(of_class.deviation) AS macro_std,
    coalesce(max(whole.queries), sum(of_class.queries)::bigint) AS queries,
    count(*) AS classes,
    run.mode,
    run.ann_recall
FROM (
    -- The deviation over all queries comes from those within the classes and between them: a difference of two
    -- large sums of squares would lose the digits that matter.
    SELECT
        grouped.*,
        sum(grouped.queries * grouped.mean) OVER of_group / sum(grouped.queries) OVER of_group AS micro
    FROM (
        SELECT
            qp.run_id,
            CASE $1
                WHEN 'run' THEN 'all'
                WHEN 'class' THEN l.name
                WHEN 'dataset' THEN d.name
                WHEN 'modality' THEN coalesce(i.modality, '(none)')
                WHEN 'anatomic_region' THEN coalesce(i.anatomic_region, '(none)')
            END AS group_name,
            qp.n,
            qp.label_id,
            count(*) AS queries,
            avg(qp.precision_at_n) AS mean,
            stddev_samp(qp.precision_at_n) AS deviation
        FROM cbir.query_precision_by_label AS qp
        INNER JOIN cbir.label AS l ON l.label_id = qp.label_id
        INNER JOIN cbir.image AS i ON i.image_id = qp.query_image_id
        INNER JOIN cbir.dataset AS d ON d.dataset_id = i.dataset_id
        GROUP BY qp.run_id, group_name, qp.n, qp.label_id
    ) AS grouped
    WINDOW of_group AS (PARTITION BY grouped.run_id, grouped.group_name, grouped.n)
) AS of_class
-- Queries that may have several labels count once for the mean over queries, and once for each label above.
LEFT JOIN (
    SELECT
        qp.run_id,
        CASE $1
            WHEN 'run' THEN 'all'
            WHEN 'dataset' THEN d.name
            WHEN 'modality' THEN coalesce(i.modality, '(none)')
            WHEN 'anatomic_region' THEN coalesce(i.anatomic_region, '(none)')
        END AS group_name,
        qp.n,
        count(*) AS queries,
        avg(qp.precision_at_n) AS mean,
        stddev_samp(qp.precision_at_n) AS deviation
    FROM cbir.query_precision AS qp
    INNER JOIN cbir.image AS i ON i.image_id = qp.query_image_id
    INNER JOIN cbir.dataset AS d ON d.dataset_id = i.dataset_id
    WHERE qp.label_id IS NULL
    GROUP BY qp.run_id, group_name, qp.n
) AS whole ON whole.run_id = of_class.run_id AND whole.group_name = of_class.group_name AND whole.n = of_class.n
INNER JOIN cbir.search_run AS run ON run.run_id = of_class.run_id
INNER JOIN cbir.encoder AS e ON e.encoder_id = run.encoder_id
GROUP BY of_class.run_id, e.name, of_class.group_name, of_class.n, run.mode, run.ann_recall
$$;

COMMENT ON FUNCTION cbir.precision_by(text) IS
'Micro and macro precision at N per run and group: run, class, dataset, modality or anatomic_region.';
