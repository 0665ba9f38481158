-- Title: Refuse to answer code that the maintenance of a table runs
-- Description: Raises an error during VACUUM, ANALYZE, REINDEX and REFRESH. These commands run the functions of a
--   table's indexes and views in the session of the role that maintains it; autovacuum's role is a superuser. A
--   function that runs as its owner cannot see its caller, only the session's role, and would answer as if that role
--   had asked. UNLISTEN has no effect here, but PostgreSQL refuses it to such code. PostgreSQL offers no other way to
--   detect this.
CREATE FUNCTION cbir_internal.refuse_maintenance()
RETURNS void
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
BEGIN
    -- A standby maintains nothing, and does not support UNLISTEN.
    IF NOT pg_is_in_recovery() THEN
        EXECUTE 'UNLISTEN cbir';
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE EXCEPTION 'this function does not run inside VACUUM, ANALYZE, REINDEX, CREATE INDEX or REFRESH' USING
            ERRCODE = 'insufficient_privilege',
            HINT = 'Call it in a query of your own, not from an index or a materialized view.';
END
$$;

COMMENT ON FUNCTION cbir_internal.refuse_maintenance() IS
'Raises an error within VACUUM, ANALYZE, REINDEX, CREATE INDEX and REFRESH; else does nothing.';
