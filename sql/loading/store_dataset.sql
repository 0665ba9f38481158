-- Title: Create or find a dataset
-- Description: Creates a dataset unless it exists. An existing dataset keeps its reader. It also keeps its folder,
--   unless it has none or has moved. The caller compares the result with its arguments. Under row-level security a new
--   dataset must be one that the caller was given (cbir.dataset_access).
-- Inputs: the dataset's name, its reader, its folder (NULL: it has no files), TRUE if its folder has moved.
-- Returns: the dataset as it is stored; no row if it is hidden from the caller or has just been removed.
CREATE FUNCTION cbir_internal.store_dataset(name text, reader text, root text, moved boolean)
RETURNS TABLE (dataset_id bigint, stored_reader text, stored_root text)
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
BEGIN
    INSERT INTO cbir.dataset (name, reader, root)
    VALUES (store_dataset.name, store_dataset.reader, store_dataset.root)
    ON CONFLICT ON CONSTRAINT dataset_name_key DO NOTHING;
    UPDATE cbir.dataset AS d SET root = store_dataset.root
    WHERE
        d.name = store_dataset.name AND d.reader = store_dataset.reader
        AND d.root IS DISTINCT FROM store_dataset.root AND store_dataset.root IS NOT NULL
        AND (d.root IS NULL OR moved);
    RETURN QUERY
    SELECT d.dataset_id, d.reader, d.root FROM cbir.dataset AS d WHERE d.name = store_dataset.name;
END
$$;

COMMENT ON FUNCTION cbir_internal.store_dataset(text, text, text, boolean) IS
'Creates a dataset unless it exists; returns its id, reader and folder.';
