-- Title: Record changes of a setting
-- Description: Writes who changed a setting and when, into its row and into the audit (trigger function of this table
--   alone). So the audit also records that somebody switched it off.
CREATE OR REPLACE FUNCTION cbir_internal.note_setting()
RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
BEGIN
    IF TG_RELID <> 'cbir.setting'::regclass THEN
        RAISE EXCEPTION 'cbir_internal.note_setting is a trigger function for cbir.setting only' USING ERRCODE = 'insufficient_privilege';
    END IF;
    INSERT INTO cbir.search_audit (login, role, purpose, function, filter, returned)
    VALUES (
        session_user,
        cbir_internal.acting_role(),
        cbir_internal.stated_purpose(),
        'setting',
        jsonb_build_object(new.name, new.enabled),
        '{}'
    );
    new.changed_at := now();
    new.changed_by := session_user;
    RETURN new;
END
$$;

COMMENT ON FUNCTION cbir_internal.note_setting() IS
'Writes a change of cbir.setting into cbir.search_audit, and its author into the row (trigger function).';
