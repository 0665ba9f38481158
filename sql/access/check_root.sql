-- Title: Check the folder of a dataset
-- Description: Refuses a folder that reaches into another site's (trigger function of cbir.dataset alone). The role
--   that encodes reads the files, so a site that named another site's folder would get that site's images in its own
--   dataset. If row-level security restricts the acting role, the folder may not be, hold or lie in the folder of a
--   dataset that the role does not see. Otherwise, datasets may share files. An opaque name of a folder overlaps with
--   itself alone; check_folder compares what it stands for.
CREATE OR REPLACE FUNCTION cbir_internal.check_root()
RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
BEGIN
    IF tg_relid <> 'cbir.dataset'::regclass THEN
        RAISE EXCEPTION 'cbir_internal.check_root is a trigger function for cbir.dataset only' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF new.root IS NULL OR NOT cbir_internal.rows_are_restricted() THEN
        PERFORM cbir_internal.refuse_maintenance();
        RETURN new;
    END IF;
    IF new.root !~ '^dicom-[0-9a-f]{32}$' AND new.root <> '/' AND (new.root !~ '^(/[^/]+)+$' OR new.root ~ '/[.]{1,2}(/|$)') THEN
        RAISE EXCEPTION 'the folder of a dataset must be an absolute path' USING
            ERRCODE = 'invalid_parameter_value', HINT = 'Write it without ".", "..", double slashes and a slash at the end.';
    END IF;
    IF EXISTS (
        SELECT FROM cbir.dataset AS d
        WHERE
            d.dataset_id <> new.dataset_id AND d.root IS NOT NULL
            AND NOT cbir_internal.sees_dataset(cbir_internal.acting_role(), d.name)
            AND cbir_internal.folders_overlap(d.root, new.root)
    ) THEN
        RAISE EXCEPTION 'this folder belongs to a dataset that this role may not see' USING
            ERRCODE = 'insufficient_privilege', HINT = 'Keep the images of each site in folders of its own.';
    END IF;
    RETURN new;
END
$$;

COMMENT ON FUNCTION cbir_internal.check_root() IS
'Refuses a dataset''s folder that is, holds or lies in the folder of a hidden dataset (trigger function).';
