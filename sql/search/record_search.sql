-- Title: Write a search into the audit
-- Description: Writes who searched, when, why (the setting cbir.purpose, see stated_purpose), what was asked and which
--   images were returned. Every public search function calls it once. cbir.setting can switch the audit off ('audit'),
--   or make searches without a purpose fail ('purpose_required'). The function runs as the owner, so that a role that
--   searches needs no right on the audit; grant_roles decides who may call it. A message of level DEBUG1 names the row,
--   the function and the caller: a server that logs this level (log_min_messages) also knows searches that were rolled
--   back.
--     SELECT set_config('cbir.purpose', 'tumour board 2026-11-24', true);
-- Inputs: the function, its encoder (NULL: all), the query image (NULL: a vector), k, the filter, the mode that was
--   used, and the ids of the images that were returned; further arguments of the search, stored with the filter (NULL:
--   not given).
CREATE FUNCTION cbir_internal.record_search(
    function_name text,
    encoder text,
    query_image_id bigint,
    k integer,
    filter cbir.image_filter,
    mode text,
    returned bigint[],
    same_patient boolean DEFAULT NULL,
    without_image bigint DEFAULT NULL,
    without_patient bigint DEFAULT NULL,
    study_id bigint DEFAULT NULL,
    m integer DEFAULT NULL
)
RETURNS void
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    why constant text := cbir_internal.stated_purpose();
    switched_on constant text[] := ARRAY(SELECT s.name FROM cbir.setting AS s WHERE s.enabled);
    number bigint;
BEGIN
    IF why IS NULL AND 'purpose_required' = ANY (switched_on) THEN
        RAISE EXCEPTION 'this database requires a purpose for every search' USING
            ERRCODE = 'invalid_parameter_value',
            HINT = 'Set it in the transaction of the search: SELECT set_config(''cbir.purpose'', ''...'', true);'
            ' or: cbirdb search --purpose "..."';
    END IF;
    IF 'audit' <> ALL (switched_on) THEN
        RETURN;
    END IF;
    IF current_setting('transaction_read_only')::boolean THEN
        RAISE EXCEPTION 'the audit cannot record a search in a read-only transaction' USING
            ERRCODE = 'read_only_sql_transaction',
            HINT = 'Search in a read-write transaction on the primary server. An administrator can switch the audit'
            ' off: UPDATE cbir.setting SET enabled = FALSE WHERE name = ''audit'';';
    END IF;
    IF (record_search.filter).image_ids IS NOT NULL THEN
        -- Stored as one flat list without NULLs, because dimensions and NULLs do not change a search.
        record_search.filter.image_ids := array_remove(ARRAY(SELECT unnest((record_search.filter).image_ids)), NULL);
    END IF;
    INSERT INTO cbir.search_audit (
        login, role, purpose, function, encoder, query_image_id, k, filter, mode, returned
    )
    VALUES (
        session_user, cbir_internal.acting_role(), why,
        record_search.function_name, record_search.encoder, record_search.query_image_id, record_search.k,
        jsonb_strip_nulls(coalesce(to_jsonb(record_search.filter), '{}') || jsonb_build_object(
            'same_patient', nullif(record_search.same_patient, FALSE), 'without_image', record_search.without_image,
            'without_patient', record_search.without_patient, 'study_id', record_search.study_id, 'm', record_search.m
        )),
        record_search.mode,
        coalesce(record_search.returned, '{}')
    )
    RETURNING audit_id INTO number;
    -- For the server's log, which keeps it when the transaction is rolled back. No id of a patient or an image.
    RAISE DEBUG 'cbirdb search %: % by % as %', number, record_search.function_name, session_user, cbir_internal.acting_role();
END
$$;

COMMENT ON FUNCTION cbir_internal.record_search(
    text, text, bigint, integer, cbir.image_filter, text, bigint[], boolean, bigint, bigint, bigint, integer
) IS
'Writes a search into cbir.search_audit, unless cbir.setting switches the audit off.';
