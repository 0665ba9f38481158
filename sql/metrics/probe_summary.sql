-- Title: Figures of a linear probe
-- Description: Shows accuracy, the share of test images whose class was predicted, and means over the classes that test
--   images have: balanced_accuracy of recall, macro_f1 of F1, macro_auc of the area under the ROC curve. Test images
--   whose class has no train image count as wrong; such a class has no area, and is left out of that mean alone.
-- Reference: the same as scikit-learn's accuracy_score, balanced_accuracy_score, f1_score and roc_auc_score (ovr).
CREATE VIEW cbir.probe_summary WITH (security_invoker = TRUE) AS
SELECT
    c.probe_id,
    c.encoder,
    sum(c.hits)::double precision / nullif(sum(c.queries), 0) AS accuracy,
    avg(c.recall) AS balanced_accuracy,
    avg(c.f1) FILTER (WHERE c.queries > 0) AS macro_f1,
    avg(c.auc) AS macro_auc,
    sum(c.queries)::bigint AS queries,
    count(*) FILTER (WHERE c.queries > 0) AS classes,
    count(*) FILTER (WHERE c.train_images = 0) AS classes_without_train_images
FROM cbir.probe_by_class AS c
GROUP BY c.probe_id, c.encoder;

COMMENT ON VIEW cbir.probe_summary IS
'Shows accuracy, balanced accuracy, macro F1 and macro area under the ROC curve of each linear probe.';
