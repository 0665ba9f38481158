-- Title: Area under the ROC curve of each class of a linear probe
-- Description: Shows, one class against the rest, the probability that a random test image of the class gets a higher
--   probability of it than a random other image; equal ones count half. It is computed from ranks. A class without
--   test images, or without others, has none. A class without train images has no probability, and no row.
-- Reference: Hanley and McNeil, The meaning and use of the area under a receiver operating characteristic curve,
--   Radiology 143(1), 1982; the same as scikit-learn's roc_auc_score.
CREATE VIEW cbir.probe_auc WITH (security_invoker = TRUE) AS
WITH tally AS (
    SELECT
        p.probe_id,
        c.label_id,
        p.probabilities[c.position] AS probability,
        count(*) FILTER (WHERE p.label_id = c.label_id)::double precision AS own,
        count(*) FILTER (WHERE p.label_id <> c.label_id)::double precision AS others
    FROM cbir.probe_prediction AS p
    INNER JOIN cbir.probe_class AS c ON p.probe_id = c.probe_id
    GROUP BY p.probe_id, c.label_id, p.probabilities[c.position]
),

ranked AS (
    SELECT
        t.probe_id,
        t.label_id,
        t.own,
        t.others,
        sum(t.others) OVER (PARTITION BY t.probe_id, t.label_id ORDER BY t.probability) - t.others / 2 AS others_below
    FROM tally AS t
)

SELECT
    r.probe_id,
    r.label_id,
    sum(r.own * r.others_below) / nullif(sum(r.own) * sum(r.others), 0) AS auc
FROM ranked AS r
GROUP BY r.probe_id, r.label_id;

COMMENT ON VIEW cbir.probe_auc IS
'Shows for each class of a linear probe the area under the ROC curve, one class against the rest, on the test images.';
