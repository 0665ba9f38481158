-- Title: Predict a query's class by its k nearest neighbours
-- Description: Returns the label with the most votes. Each of the first k neighbours of a query has one vote, for its
--   label. Of labels with equal votes, the one with the nearest neighbour wins. A query without neighbours has no
--   prediction (NULL).
-- Reference: Cover and Hart, Nearest neighbor pattern classification, IEEE Trans. Inform. Theory 13(1), 1967; as in the
--   paper's authors' code.
-- Inputs: a finished run of a protocol with one label per image; values of k, up to the run's.
CREATE FUNCTION cbir.knn_prediction(run_id bigint, ks integer[])
RETURNS TABLE (k integer, query_image_id bigint, label_id bigint, predicted_label_id bigint, votes bigint)
LANGUAGE plpgsql
STABLE
SET search_path FROM CURRENT
-- The planner does not know how many rows functions return, and would scan them once for every query.
SET enable_nestloop = off
AS $$
#variable_conflict use_column
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
    run constant cbir.search_run := cbir_internal.check_run(run_id);
BEGIN
    IF run.protocol <> 'paper' THEN
        RAISE EXCEPTION 'run % has protocol "%", which allows several labels per image', run.run_id, run.protocol
            USING ERRCODE = 'feature_not_supported', HINT = 'This function needs one label per image. Use a run of protocol "paper".';
    END IF;
    ks := cbir_internal.checked_cutoffs('k', ks, run.run_id);
    RETURN QUERY
    WITH wanted AS (SELECT DISTINCT u.k FROM unnest(knn_prediction.ks) AS u (k)),
    member AS MATERIALIZED (
        SELECT c.image_id, c.label_ids[1] AS label_id FROM cbir_internal.indexed_image(knn_prediction.run_id) AS c
    ),
    neighbour AS (
        SELECT r.query_image_id, found.rank, m.label_id
        FROM cbir.search_result AS r
        CROSS JOIN LATERAL unnest(r.neighbour_ids) WITH ORDINALITY AS found (image_id, rank)
        INNER JOIN member AS m ON m.image_id = found.image_id
        WHERE r.run_id = knn_prediction.run_id AND found.rank <= (SELECT max(w.k) FROM wanted AS w)
    ),
    elected AS (
        SELECT DISTINCT ON (v.k, v.query_image_id) v.*
        FROM (
            SELECT w.k, n.query_image_id, n.label_id, count(*) AS votes, min(n.rank) AS nearest
            FROM wanted AS w INNER JOIN neighbour AS n ON n.rank <= w.k
            GROUP BY w.k, n.query_image_id, n.label_id
        ) AS v
        ORDER BY v.k, v.query_image_id, v.votes DESC, v.nearest
    )
    SELECT w.k, r.query_image_id, r.label_id, e.label_id, coalesce(e.votes, 0)
    FROM cbir.search_result AS r
    CROSS JOIN wanted AS w
    LEFT JOIN elected AS e ON e.k = w.k AND e.query_image_id = r.query_image_id
    WHERE r.run_id = knn_prediction.run_id;
END
$$;

COMMENT ON FUNCTION cbir.knn_prediction(bigint, integer[]) IS
'Returns for every query of a run and every k the label that most of its k nearest neighbours carry, beside its own.';
