-- Title: Check a folder before an ingest of it
-- Description: Raises an error if row-level security restricts the acting role and a hidden dataset has this folder,
--   one that holds it or one that lies in it. A path may hold a patient's name, and a server may log what it is asked,
--   so the caller gives hashes, and the server hashes the paths that it has. Of folders with opaque names the caller
--   knows which overlap. check_root, the trigger, stays the last word on paths.
-- Inputs: SHA-256 of the folder's absolute path and then of the folders above it, in hexadecimal digits; opaque names
--   of folders that overlap with it.
CREATE FUNCTION cbir_internal.check_folder(path_hashes text[], opaque_roots text[])
RETURNS void
LANGUAGE plpgsql
STABLE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
BEGIN
    IF NOT cbir_internal.rows_are_restricted() THEN
        RETURN;
    END IF;
    IF EXISTS (
        SELECT FROM cbir.dataset AS d
        WHERE
            d.root IS NOT NULL
            AND (
                d.root = ANY (opaque_roots)
                OR (cbir_internal.path_hashes(d.root))[1] = ANY (check_folder.path_hashes)
                OR check_folder.path_hashes[1] = ANY (cbir_internal.path_hashes(d.root))
            )
            AND NOT cbir_internal.sees_dataset(cbir_internal.acting_role(), d.name)
    ) THEN
        RAISE EXCEPTION 'this folder belongs to a dataset that this role may not see' USING
            ERRCODE = 'insufficient_privilege', HINT = 'Keep the images of each site in folders of its own.';
    END IF;
END
$$;

COMMENT ON FUNCTION cbir_internal.check_folder(text[], text[]) IS
'Refuses a folder that is, holds or lies in the folder of a hidden dataset.';
