-- Title: Keep the search audit append only
-- Description: Trigger function, of this table alone: on another it would tell whether an image is there. The one
--   change that it lets through is erasure: ids of images that are no longer there are taken out of a row, which counts
--   them. Whoever may change the table's definition can take the trigger off.
CREATE FUNCTION cbir.guard_audit()
RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    erasable constant text[] := '{query_image_id,filter,returned,erased_ids}';
BEGIN
    IF TG_OP = 'UPDATE' AND TG_RELID = 'cbir.search_audit'::regclass THEN
        IF
            to_jsonb(new) - erasable = to_jsonb(old) - erasable
            AND new.filter - 'image_ids' = old.filter - 'image_ids'
            AND new.returned <@ old.returned
            AND new.erased_ids > old.erased_ids
            AND (new.query_image_id IS NULL OR new.query_image_id = old.query_image_id)
            AND NOT EXISTS (
                SELECT FROM cbir.image AS i
                WHERE
                    i.image_id = old.query_image_id AND new.query_image_id IS NULL
                    OR i.image_id = ANY (old.returned) AND i.image_id <> ALL (new.returned)
            )
        THEN
            RETURN new;
        END IF;
    END IF;
    RAISE EXCEPTION 'the search audit can only be added to' USING
        ERRCODE = 'insufficient_privilege',
        HINT = 'Erasing a patient takes the ids of their images out of it; nothing else changes it.';
END
$$;

REVOKE ALL ON FUNCTION cbir.guard_audit() FROM public;

COMMENT ON FUNCTION cbir.guard_audit() IS
'Trigger function: refuses every change to cbir.search_audit but the removal of ids of erased images.';
