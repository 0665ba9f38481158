-- Title: Encoders in readable form
-- Description: Lists encoders that have an embedding table here, one per row: what their vectors are and what computed
--   them. Every reader sees all encoders; no row is hidden.
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
    e.created_at,
    e.rendering_sha256
FROM cbir.encoder AS e;

COMMENT ON VIEW cbir.encoder_overview IS
'Lists encoders with vectors here, one per row: dimension, precision, weights, preprocessing, provenance.';
