-- Title: Precision at N, summarised over the queries of a group
-- Description: Computes micro precision, the mean over queries ("sample-wise"), and macro precision, the mean over
--   classes of the class's mean ("class-wise"). Standard deviations are those of a sample (n - 1): micro_std over
--   queries, macro_std the mean over classes of the deviation within a class. A class with one query has no deviation
--   and does not enter macro_std. Under the protocol any-label a query has several classes. Micro counts it once: a
--   neighbour that shares any of its labels is relevant. Macro counts it once for each class: a neighbour that shares
--   that label is relevant.
-- Reference: the paper's authors' code (MIC-DKFZ/foundation-models-for-cbmir).
-- Inputs: run, class, dataset, modality or anatomic_region (of the query image); a finished run (NULL: all of them).
-- Returns: a row per group and N. If a run searched an index below the floor, not_final gives the reason not to rely on
--   its figures.
-- Note: queries are first summed in cells whose members differ only in their hits, all N at once. Means and deviations
--   come from these sums of whole numbers, which are exact (squares for k up to 4,096, to seven digits beyond). Runs
--   are summarised one after the other, so a condition on run_id saves the work for all other runs.
CREATE FUNCTION cbir.precision_by(grouped_by text, run bigint DEFAULT NULL)
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
    ann_recall double precision,
    not_final text
)
LANGUAGE plpgsql
STABLE
-- A plan made without the run's id would expect a small run.
SET plan_cache_mode = force_custom_plan
SET search_path FROM CURRENT
AS $$
#variable_conflict use_column
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
    grouping constant text := cbir_internal.check_group(grouped_by);
    finished bigint;
BEGIN
    IF run IS NOT NULL THEN
        PERFORM cbir_internal.check_run(run);
    END IF;
    FOR finished IN
        SELECT r.run_id FROM cbir.search_run AS r
        WHERE r.finished_at IS NOT NULL AND ($2 IS NULL OR r.run_id = $2) ORDER BY r.run_id
    LOOP
        RETURN QUERY
        WITH cell AS (
            -- Queries that differ only in their hits.
            SELECT
                q.run_id,
                CASE $1 WHEN 'dataset' THEN q.dataset_id END AS dataset_id,
                CASE $1 WHEN 'modality' THEN q.modality END AS modality,
                CASE $1 WHEN 'anatomic_region' THEN q.anatomic_region END AS anatomic_region,
                q.label_id,
                q.k,
                least(q.relevant_count, q.k) AS reachable,
                count(*) AS queries,
                cbir_internal.summed(q.hits_vector) AS hits,
                cbir_internal.summed(q.hits_squared) AS hits_squared
            FROM cbir.query_hits AS q
            WHERE q.run_id = finished AND ($1 <> 'class' OR q.label_id IS NOT NULL)
            GROUP BY 1, 2, 3, 4, q.label_id, q.k, reachable
        ),

        cell_at_n AS (
            SELECT
                cell.run_id,
                cbir_internal.query_group($1, l.name, d.name, cell.modality, cell.anatomic_region) AS group_name,
                cell.label_id,
                cutoff.n,
                cell.queries,
                cell.hits[place.position] / cell.queries / place.first AS mean,
                -- Computed from whole numbers, and 0 if all are the same.
                greatest(cell.queries * cell.hits_squared[place.position] - cell.hits[place.position] ^ 2, 0)
                / cell.queries / place.first ^ 2 AS squares
            FROM cell
            LEFT JOIN cbir.dataset AS d ON d.dataset_id = cell.dataset_id
            LEFT JOIN cbir.label AS l ON l.label_id = cell.label_id
            CROSS JOIN LATERAL generate_series(1, cell.k) AS cutoff (n)
            -- The sums begin at position 2; position 1 holds the number of vectors.
            CROSS JOIN LATERAL (
                SELECT least(cutoff.n, cell.reachable) AS first, 1 + least(cutoff.n, cell.reachable) AS position
            ) AS place
        ),

        cell_in_class AS (
            SELECT c.*, sum(c.queries * c.mean) OVER of_label / sum(c.queries) OVER of_label AS class_mean
            FROM cell_at_n AS c
            WINDOW of_label AS (PARTITION BY c.run_id, c.group_name, c.label_id, c.n)
        ),

        class AS (
            SELECT
                c.run_id,
                c.group_name,
                c.label_id,
                c.n,
                c.class_mean AS mean,
                sum(c.queries) AS queries,
                sum(c.squares + c.queries * (c.mean - c.class_mean) ^ 2) AS squares
            FROM cell_in_class AS c
            GROUP BY c.run_id, c.group_name, c.label_id, c.n, c.class_mean
        ),

        -- Deviations come from those within the parts and between them. A difference of two large sums of squares would
        -- lose the significant digits.
        class_in_group AS (
            SELECT
                c.*,
                CASE WHEN c.queries > 1 THEN sqrt(c.squares / (c.queries - 1)::double precision) END AS deviation,
                sum(c.queries * c.mean) FILTER (WHERE c.label_id IS NOT NULL) OVER of_group
                / sum(c.queries) FILTER (WHERE c.label_id IS NOT NULL) OVER of_group AS micro
            FROM class AS c
            WINDOW of_group AS (PARTITION BY c.run_id, c.group_name, c.n)
        )

        SELECT
            c.run_id,
            e.name AS encoder,
            c.group_name,
            c.n,
            -- A query that may have several labels counts once for the mean over queries (the class without a label),
            -- and once more for each label.
            coalesce(max(c.mean) FILTER (WHERE c.label_id IS NULL), max(c.micro)) AS micro_precision,
            coalesce(max(c.deviation) FILTER (WHERE c.label_id IS NULL), CASE
                WHEN sum(c.queries) FILTER (WHERE c.label_id IS NOT NULL) > 1 THEN sqrt(
                    sum(c.squares + c.queries * (c.mean - c.micro) ^ 2) FILTER (WHERE c.label_id IS NOT NULL)
                    / (sum(c.queries) FILTER (WHERE c.label_id IS NOT NULL) - 1)::double precision
                )
            END) AS micro_std,
            avg(c.mean) FILTER (WHERE c.label_id IS NOT NULL) AS macro_precision,
            avg(c.deviation) FILTER (WHERE c.label_id IS NOT NULL) AS macro_std,
            coalesce(max(c.queries) FILTER (WHERE c.label_id IS NULL), sum(c.queries))::bigint AS queries,
            count(c.label_id) AS classes,
            run.mode,
            run.ann_recall,
            run.not_final
        FROM class_in_group AS c
        INNER JOIN cbir.search_run AS run ON run.run_id = c.run_id
        INNER JOIN cbir.encoder AS e ON e.encoder_id = run.encoder_id
        GROUP BY c.run_id, e.name, c.group_name, c.n, run.mode, run.ann_recall, run.not_final
        HAVING count(c.label_id) > 0;
    END LOOP;
END
$$;

COMMENT ON FUNCTION cbir.precision_by(text, bigint) IS
'Computes micro and macro precision at N of a run, or of all, per group: run, class, dataset, modality or'
' anatomic_region.';
