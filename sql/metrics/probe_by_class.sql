-- Title: Figures of a linear probe for each class
-- Description: Shows for each class that a test image has or the probe can predict: precision, the share of right ones
--   among the predictions of the class (NULL: it was never predicted); recall, the share of its test images that were
--   recognised (NULL: there are none); their harmonic mean f1; and auc (see cbir.probe_auc). A class without
--   train images cannot be predicted, so its recall is 0. position is its place among the probabilities of
--   cbir.probe_answer; NULL: it has none.
-- Reference: the same as scikit-learn's precision_recall_fscore_support.
CREATE VIEW cbir.probe_by_class WITH (security_invoker = TRUE) AS
WITH tally AS (
    SELECT
        p.probe_id,
        p.label_id,
        1 AS query,
        0 AS prediction,
        (p.label_id = p.predicted_label_id)::integer AS hit,
        0::bigint AS train_images,
        NULL::integer AS position
    FROM cbir.probe_prediction AS p
    UNION ALL
    SELECT
        p.probe_id,
        p.predicted_label_id AS label_id,
        0 AS query,
        1 AS prediction,
        0 AS hit,
        0 AS train_images,
        NULL AS position
    FROM cbir.probe_prediction AS p
    UNION ALL
    SELECT
        c.probe_id,
        c.label_id,
        0 AS query,
        0 AS prediction,
        0 AS hit,
        c.train_images,
        c.position
    FROM cbir.probe_class AS c
),

of_class AS (
    SELECT
        t.probe_id,
        t.label_id,
        sum(t.query) AS queries,
        sum(t.prediction) AS predictions,
        sum(t.hit) AS hits,
        sum(t.train_images)::bigint AS train_images,
        max(t.position) AS position
    FROM tally AS t
    GROUP BY t.probe_id, t.label_id
)

SELECT
    o.probe_id,
    e.name AS encoder,
    o.label_id,
    l.name || '' AS class,
    o.hits::double precision / nullif(o.predictions, 0) AS precision,
    o.hits::double precision / nullif(o.queries, 0) AS recall,
    2 * o.hits::double precision / nullif(o.predictions + o.queries, 0) AS f1,
    a.auc,
    o.hits,
    o.queries,
    o.predictions,
    o.train_images,
    o.position
FROM of_class AS o
INNER JOIN cbir.probe_run AS r ON o.probe_id = r.probe_id
INNER JOIN cbir.encoder AS e ON r.encoder_id = e.encoder_id
INNER JOIN cbir.label AS l ON o.label_id = l.label_id
LEFT JOIN cbir.probe_auc AS a ON o.probe_id = a.probe_id AND o.label_id = a.label_id;

COMMENT ON VIEW cbir.probe_by_class IS
'Shows precision, recall, F1 and area under the ROC curve of each class of a linear probe, on the test images.';
