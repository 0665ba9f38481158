-- Title: Refuse to answer code that the maintenance of a table runs
-- Description: VACUUM, ANALYZE, REINDEX and REFRESH run the functions of somebody's indexes and views in the session of
--   whoever maintains the table, autovacuum's being a superuser's. A function that runs as its owner cannot see who
--   called it, only whose session it is, and would answer as for that one. UNLISTEN does nothing here; PostgreSQL
--   refuses it to such code, and tells of it in no other way.
CREATE FUNCTION cbir_internal.refuse_maintenance()
RETURNS void
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
BEGIN
    -- A standby maintains nothing, and knows no UNLISTEN.
    IF NOT pg_is_in_recovery() THEN
        EXECUTE 'UNLISTEN cbir';
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE EXCEPTION 'nothing is answered to the functions of an index while a table is maintained' USING
            ERRCODE = 'insufficient_privilege',
            HINT = 'Call it in a session of your own.';
END
$$;

COMMENT ON FUNCTION cbir_internal.refuse_maintenance() IS
'An error within VACUUM, ANALYZE, REINDEX, CREATE INDEX and REFRESH; else nothing.';
