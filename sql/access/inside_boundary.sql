-- Title: Check that a function runs inside the security boundary
-- Description: Refuses to answer a restricted role from outside the security boundary. Every function that readers call
--   begins with this check. Under row-level security such functions run as cbir_search, which is under the policies.
--   After a restore that gave everything to one owner, they would run as that owner, who sees all rows. Then a role
--   that may not see all rows gets an error, and `cbirdb db upgrade` hands the functions over again. A function that
--   runs as its caller is under the caller's policies and needs no boundary. If the session's role sees all rows,
--   refuse_maintenance checks further.
CREATE FUNCTION cbir_internal.inside_boundary()
RETURNS boolean
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    restricted constant boolean := cbir_internal.rows_are_restricted();
BEGIN
    IF current_user NOT IN ('cbir_search', cbir_internal.acting_role()) AND restricted THEN
        RAISE EXCEPTION 'this function does not run as cbir_search, so it would bypass row-level security' USING
            ERRCODE = 'insufficient_privilege',
            HINT = 'After a restore, the owner of schema cbir must run: cbirdb db upgrade';
    END IF;
    IF
        current_user = 'cbir_search' AND NOT restricted
        AND (SELECT c.relrowsecurity FROM pg_class AS c WHERE c.oid = 'cbir.image'::regclass)
    THEN
        PERFORM cbir_internal.refuse_maintenance();
    END IF;
    RETURN TRUE;
END
$$;

COMMENT ON FUNCTION cbir_internal.inside_boundary() IS
'Returns TRUE, or raises an error if the caller is restricted and the calling function does not run as cbir_search.';
