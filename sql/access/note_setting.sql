-- Title: Note who changed a setting and when, in its row and in the audit
-- Description: Trigger function, of this table alone. Switching the audit off is itself in the audit.
CREATE OR REPLACE FUNCTION cbir_internal.note_setting()
RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
BEGIN
    IF TG_RELID <> 'cbir.setting'::regclass THEN
        RAISE EXCEPTION 'this trigger function is for cbir.setting' USING ERRCODE = 'insufficient_privilege';
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
'Trigger function: writes a change of cbir.setting into cbir.search_audit, and who made it into the row.';
