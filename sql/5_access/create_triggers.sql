-- Title: Create the triggers
-- Description: Called by every `cbirdb db upgrade`, which drops them before it drops the functions that they call.
CREATE FUNCTION cbir.create_triggers()
RETURNS void
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
BEGIN
    CREATE OR REPLACE TRIGGER guard_rows BEFORE UPDATE OR DELETE ON cbir.search_audit
    FOR EACH ROW EXECUTE FUNCTION cbir.guard_audit();
    CREATE OR REPLACE TRIGGER guard_table BEFORE TRUNCATE ON cbir.search_audit
    FOR EACH STATEMENT EXECUTE FUNCTION cbir.guard_audit();
    CREATE OR REPLACE TRIGGER note_setting BEFORE INSERT OR UPDATE ON cbir.setting
    FOR EACH ROW EXECUTE FUNCTION cbir.note_setting();
    CREATE OR REPLACE TRIGGER refuse_erased AFTER INSERT ON cbir.patient REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION cbir.refuse_erased();
    CREATE OR REPLACE TRIGGER refuse_erased AFTER INSERT ON cbir.image REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION cbir.refuse_erased();
    -- Of each row, and only where the name changes: an update of millions of splits is not looked at.
    CREATE OR REPLACE TRIGGER refuse_erased_name AFTER UPDATE ON cbir.patient FOR EACH ROW
    WHEN ((new.dataset_id, new.pseudonym) IS DISTINCT FROM (old.dataset_id, old.pseudonym))
    EXECUTE FUNCTION cbir.refuse_erased();
    CREATE OR REPLACE TRIGGER refuse_erased_name AFTER UPDATE ON cbir.image FOR EACH ROW
    WHEN ((new.dataset_id, new.source) IS DISTINCT FROM (old.dataset_id, old.source))
    EXECUTE FUNCTION cbir.refuse_erased();
    CREATE OR REPLACE TRIGGER refuse_erased_name AFTER UPDATE ON cbir.dataset FOR EACH ROW
    WHEN (new.name IS DISTINCT FROM old.name)
    EXECUTE FUNCTION cbir.refuse_erased();
    CREATE OR REPLACE TRIGGER check_role BEFORE INSERT OR UPDATE ON cbir.dataset_access
    FOR EACH ROW EXECUTE FUNCTION cbir.check_role();
END
$$;

COMMENT ON FUNCTION cbir.create_triggers() IS
'Creates the triggers of the audit, the settings, erasure and row-level security.';
