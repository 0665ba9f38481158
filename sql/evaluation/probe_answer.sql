-- Title: Answers of linear probes
-- Description: Lists for every test image of a probe its own class and the predicted one, with the probability of each
--   class, and the cluster, which is the patient, or, if patients are not known, the image (then its number is
--   negative). Columns of the image are expressions; cbir.image_overview gives the reason.
CREATE VIEW cbir.probe_answer WITH (security_invoker = TRUE) AS
SELECT
    p.probe_id,
    p.image_id,
    p.label_id,
    own.name || '' AS label,
    p.predicted_label_id,
    predicted.name || '' AS predicted_label,
    p.probabilities || '{}' AS probabilities,
    coalesce(i.patient_id, -i.image_id) AS cluster_id
FROM cbir.probe_prediction AS p
INNER JOIN cbir.image AS i ON p.image_id = i.image_id
INNER JOIN cbir.label AS own ON p.label_id = own.label_id
INNER JOIN cbir.label AS predicted ON p.predicted_label_id = predicted.label_id;

COMMENT ON VIEW cbir.probe_answer IS
'Lists for every test image of a linear probe its class, the predicted class, and the probability of each class.';
