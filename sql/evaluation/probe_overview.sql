-- Title: Linear probes in readable form
-- Description: Lists linear probes, one per row, with encoder, parameters, and the basis of their figures.
--   cbir.probe_summary shows the figures. Columns are expressions; cbir.image_overview gives the reason.
CREATE VIEW cbir.probe_overview WITH (security_invoker = TRUE) AS
SELECT
    r.probe_id,
    r.encoder_id,
    e.name AS encoder,
    r.datasets || '{}' AS datasets,
    r.split_seed + 0 AS split_seed,
    (r.same_patient::integer + 0)::boolean AS same_patient,
    r.criterion || '' AS criterion,
    r.c + 0 AS c,
    r.candidates,
    r.train_images + 0 AS train_images,
    r.val_images + 0 AS val_images,
    r.test_images + 0 AS test_images,
    r.left_out + 0 AS left_out,
    r.not_encoded + 0 AS not_encoded,
    r.shared_patient_images + 0 AS shared_patient_images,
    r.not_final || '' AS not_final,
    r.erased_images + 0 AS erased_images,
    r.erased_fitted_images + 0 AS erased_fitted_images,
    r.merged_images + 0 AS merged_images,
    r.versions,
    r.created_at + interval '0' AS created_at
FROM cbir.probe_run AS r
INNER JOIN cbir.encoder AS e ON r.encoder_id = e.encoder_id;

COMMENT ON VIEW cbir.probe_overview IS
'Lists linear probes, one per row: encoder, splits, the chosen c and those tried, numbers of images, versions.';
