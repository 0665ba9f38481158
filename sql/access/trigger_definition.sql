-- Title: Definitions of the triggers
-- Description: Lists all triggers. create_triggers creates them; access_fault checks that they exist and are on.
CREATE FUNCTION cbir_internal.trigger_definition()
RETURNS TABLE (table_name text, trigger_name text, event text, function_name text)
LANGUAGE sql
IMMUTABLE
SET search_path FROM CURRENT
AS $$
VALUES
('search_audit', 'guard_rows', 'BEFORE UPDATE OR DELETE ON %s FOR EACH ROW', 'guard_audit'),
('search_audit', 'guard_table', 'BEFORE TRUNCATE ON %s FOR EACH STATEMENT', 'guard_audit'),
('setting', 'note_setting', 'BEFORE INSERT OR UPDATE ON %s FOR EACH ROW', 'note_setting'),
(
    'patient', 'refuse_erased', 'AFTER INSERT ON %s REFERENCING NEW TABLE AS added FOR EACH STATEMENT', 'refuse_erased'
),
(
    'image', 'refuse_erased', 'AFTER INSERT ON %s REFERENCING NEW TABLE AS added FOR EACH STATEMENT', 'refuse_erased'
),
-- Row triggers that fire only if the name changes, so that an update of millions of splits does not call them.
(
    'patient', 'refuse_erased_name',
    'AFTER UPDATE ON %s FOR EACH ROW'
    ' WHEN ((new.dataset_id, new.pseudonym) IS DISTINCT FROM (old.dataset_id, old.pseudonym))',
    'refuse_erased'
),
(
    'image', 'refuse_erased_name',
    'AFTER UPDATE ON %s FOR EACH ROW WHEN ((new.dataset_id, new.source) IS DISTINCT FROM (old.dataset_id, old.source))',
    'refuse_erased'
),
(
    'dataset', 'refuse_erased_name', 'AFTER UPDATE ON %s FOR EACH ROW WHEN (new.name IS DISTINCT FROM old.name)',
    'refuse_erased'
),
(
    'patient', 'refuse_merged', 'AFTER INSERT ON %s REFERENCING NEW TABLE AS added FOR EACH STATEMENT', 'refuse_merged'
),
(
    'patient', 'refuse_merged_name',
    'AFTER UPDATE ON %s FOR EACH ROW'
    ' WHEN ((new.dataset_id, new.pseudonym) IS DISTINCT FROM (old.dataset_id, old.pseudonym))',
    'refuse_merged'
),
('dataset', 'check_root', 'BEFORE INSERT OR UPDATE OF root ON %s FOR EACH ROW', 'check_root'),
('dataset_access', 'check_role', 'BEFORE INSERT OR UPDATE ON %s FOR EACH ROW', 'check_role')
$$;

COMMENT ON FUNCTION cbir_internal.trigger_definition() IS
'Lists the triggers of schema cbir: table, name, event, and the function that they call.';
