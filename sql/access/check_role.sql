-- Title: Refuse to give a dataset to a role that does not exist, and note which role it is
-- Description: Trigger function. A name with a typing error would give nobody anything, in silence. The role's OID is
--   kept beside its name: a role that is dropped and made again under the same name is another one, and does not
--   inherit the sight of the first.
CREATE OR REPLACE FUNCTION cbir_internal.check_role()
RETURNS trigger
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
BEGIN
    IF tg_relid <> 'cbir.dataset_access'::regclass THEN
        RAISE EXCEPTION 'cbir_internal.check_role belongs to cbir.dataset_access' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    new.role_oid := (SELECT r.oid FROM pg_roles AS r WHERE r.rolname = new.role_name);
    IF new.role_oid IS NULL THEN
        RAISE EXCEPTION 'there is no role "%"', new.role_name USING
            ERRCODE = 'undefined_object',
            HINT = 'Roles: ' || coalesce(
                (
                    SELECT string_agg(r.rolname, ', ' ORDER BY r.rolname) FROM pg_roles AS r
                    WHERE NOT r.rolsuper AND NOT starts_with(r.rolname, 'pg_')
                ),
                'none yet'
            ) || '. A new one: CREATE ROLE site_a IN ROLE cbir_reader';
    END IF;
    RETURN new;
END
$$;

COMMENT ON FUNCTION cbir_internal.check_role() IS
'Trigger function: refuses a row of cbir.dataset_access for a role that does not exist, and notes the role''s OID.';
