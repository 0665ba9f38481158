-- Title: Mark failures that a later ingest did not meet again
-- Description: Updates failures after an ingest of everything that the datasets have. It skips failures in a folder
--   that could not be listed: the ingest did not reach their files, and the failures may persist.
-- Inputs: ids of datasets; start of the later ingest, by the server's clock.
CREATE FUNCTION cbir_internal.resolve_gone_failures(dataset_ids bigint[], before timestamptz)
RETURNS void
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
BEGIN
    UPDATE cbir.failure AS f SET resolved = TRUE
    WHERE
        f.stage = 'ingest' AND f.dataset_id = ANY(dataset_ids) AND NOT f.resolved AND f.last_at < before
        AND NOT EXISTS (
            SELECT FROM cbir.failure AS u
            WHERE
                u.stage = 'ingest' AND u.dataset_id = f.dataset_id AND u.last_at >= before
                AND u.reason = 'unreadable' AND (u.source = '.' OR starts_with(f.source, u.source || '/'))
        );
END
$$;

COMMENT ON FUNCTION cbir_internal.resolve_gone_failures(bigint[], timestamptz) IS
'Marks failures of datasets that a later, whole ingest did not meet again as resolved.';
