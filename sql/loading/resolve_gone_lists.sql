-- Title: Mark failures of list files that a later ingest did not meet again
-- Description: Updates failures of list files, which belong to no dataset.
-- Inputs: the folder of the list files; start of the later ingest, by the server's clock.
CREATE FUNCTION cbir_internal.resolve_gone_lists(folder text, before timestamptz)
RETURNS void
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
BEGIN
    UPDATE cbir.failure AS f SET resolved = TRUE
    WHERE
        f.stage = 'ingest' AND f.dataset_id IS NULL AND NOT f.resolved AND f.last_at < before
        AND starts_with(f.source, rtrim(folder, '/') || '/');
END
$$;

COMMENT ON FUNCTION cbir_internal.resolve_gone_lists(text, timestamptz) IS
'Marks failures of list files that a later ingest did not meet again as resolved.';
