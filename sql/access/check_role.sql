-- Title: Check the role that gets a dataset
-- Description: Refuses a role that does not exist, and stores the role's OID (trigger function). A misspelt name would
--   give access to nobody, without an error. The OID is kept beside the name: a role that was dropped and created again
--   under the same name is another role, and does not inherit the access of the first.
CREATE OR REPLACE FUNCTION cbir_internal.check_role()
RETURNS trigger
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
BEGIN
    IF tg_relid <> 'cbir.dataset_access'::regclass THEN
        RAISE EXCEPTION 'cbir_internal.check_role is a trigger function for cbir.dataset_access only' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    new.role_oid := (SELECT r.oid FROM pg_roles AS r WHERE r.rolname = new.role_name);
    IF new.role_oid IS NULL THEN
        RAISE EXCEPTION 'there is no role "%"', new.role_name USING
            ERRCODE = 'undefined_object',
            HINT = 'Existing roles: ' || coalesce(
                (
                    SELECT string_agg(r.rolname, ', ' ORDER BY r.rolname) FROM pg_roles AS r
                    WHERE NOT r.rolsuper AND NOT starts_with(r.rolname, 'pg_')
                ),
                'none yet'
            ) || '. To create one: CREATE ROLE site_a IN ROLE cbir_reader';
    END IF;
    RETURN new;
END
$$;

COMMENT ON FUNCTION cbir_internal.check_role() IS
'Refuses a row of cbir.dataset_access for a role that does not exist, and stores the role''s OID (trigger function).';
