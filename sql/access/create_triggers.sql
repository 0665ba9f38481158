-- Title: Create the triggers
-- Description: Creates or replaces the triggers that trigger_definition lists. Every `cbirdb db upgrade` calls it.
CREATE FUNCTION cbir_internal.create_triggers()
RETURNS void
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    wanted record;
BEGIN
    FOR wanted IN SELECT t.* FROM cbir_internal.trigger_definition() AS t LOOP
        EXECUTE format(
            'CREATE OR REPLACE TRIGGER %I %s EXECUTE FUNCTION cbir_internal.%I()',
            wanted.trigger_name, format(wanted.event, format('cbir.%I', wanted.table_name)), wanted.function_name
        );
    END LOOP;
END
$$;

COMMENT ON FUNCTION cbir_internal.create_triggers() IS
'Creates the triggers of the audit, the settings, erasure and row-level security.';
