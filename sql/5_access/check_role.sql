-- Title: Refuse to give a dataset to a role that does not exist
-- Description: Trigger function. A name with a typing error would give nobody anything, in silence.
CREATE OR REPLACE FUNCTION cbir.check_role()
RETURNS trigger
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
BEGIN
    IF tg_relid <> 'cbir.dataset_access'::regclass THEN
        RAISE EXCEPTION 'cbir.check_role belongs to cbir.dataset_access' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = new.role_name) THEN
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

COMMENT ON FUNCTION cbir.check_role() IS
'Trigger function: refuses a row of cbir.dataset_access for a role that does not exist.';
