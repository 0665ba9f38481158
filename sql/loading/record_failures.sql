-- Title: Record files that could not be loaded
-- Description: Writes a row per failure. A repeated failure is counted in its row.
-- Inputs: stage (ingest, encode, import-embeddings); the encoder's id (NULL: none); then for each failure the id of its
--   dataset (NULL: none), file, line of a list, reason and detail. No two may have the same dataset, file and line.
CREATE FUNCTION cbir_internal.record_failures(
    stage text,
    encoder_id bigint,
    dataset_ids bigint[],
    sources text[],
    lines integer[],
    reasons text[],
    details text[]
)
RETURNS void
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
BEGIN
    INSERT INTO cbir.failure AS old (stage, encoder_id, dataset_id, source, line, reason, detail)
    SELECT record_failures.stage, record_failures.encoder_id, new.*
    FROM unnest(dataset_ids, sources, lines, reasons, details) AS new
    ON CONFLICT ON CONSTRAINT failure_key DO UPDATE SET
        occurrences = old.occurrences + 1, last_at = now(), resolved = FALSE,
        reason = excluded.reason, detail = excluded.detail;
END
$$;

COMMENT ON FUNCTION cbir_internal.record_failures(text, bigint, bigint[], text[], integer[], text[], text[]) IS
'Writes a row per file that could not be loaded; counts repeated failures.';
