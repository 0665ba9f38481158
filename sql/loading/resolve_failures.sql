-- Title: Mark failures as resolved
-- Description: Updates the failures of files that have succeeded now. A failure's row stays, to show how often the file
--   failed and that it has succeeded since.
-- Inputs: stage; the encoder's id (NULL: none); the dataset's id (NULL: none); files.
CREATE FUNCTION cbir_internal.resolve_failures(stage text, encoder_id bigint, dataset_id bigint, sources text[])
RETURNS void
LANGUAGE plpgsql
SET plan_cache_mode = force_custom_plan
SET search_path FROM CURRENT
AS $$
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
BEGIN
    UPDATE cbir.failure AS f SET resolved = TRUE
    WHERE
        f.stage = resolve_failures.stage AND f.dataset_id IS NOT DISTINCT FROM resolve_failures.dataset_id
        AND f.source = ANY(sources) AND NOT f.resolved
        AND f.encoder_id IS NOT DISTINCT FROM resolve_failures.encoder_id;
END
$$;

COMMENT ON FUNCTION cbir_internal.resolve_failures(text, bigint, bigint, text[]) IS
'Marks failures of files that have succeeded now as resolved.';
