-- Title: Encoders as a person reads them
-- Description: One row per encoder that has an embedding table here: what its vectors are and what they were computed
--   with. Encoders are everybody's; no row is hidden.
CREATE VIEW cbir.encoder_overview WITH (security_invoker = TRUE) AS
SELECT
    e.encoder_id,
    e.name AS encoder,
    e.table_name,
    e.dim,
    e.precision,
    e.licence,
    e.weights_sha256,
    e.preprocessing_sha256,
    e.spec,
    e.provenance,
    e.golden_embedding,
    e.created_at
FROM cbir.encoder AS e;

COMMENT ON VIEW cbir.encoder_overview IS
'One row per encoder with vectors here: dimension, precision, weights, preprocessing, provenance.';
