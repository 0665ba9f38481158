-- Title: Audience of each function
-- Description: Lists who may call each function. No other place says so. A function that is not named here is public if
--   it is immutable and runs as its caller, else inner.
--     reader   searches and reads. Runs as cbir_search, if that role exists (see hand_over).
--     loader   loads. Runs as cbir_search, under the policies of the acting role; cbir_ingest calls it.
--     ingest   loads, with rights that only the owner has; cbir_ingest calls it.
--     admin    does what only administrators may do; cbir_admin calls it.
--     owner    serves the owner; only functions and triggers of the owner call it.
--     inner    serves functions for readers, which call it as cbir_search; the owner may call it too.
--     public   computes from its arguments alone, or reads PostgreSQL's own catalogue. Views call these functions,
--              because a view runs its functions as its reader.
-- Returns: every function of schemas cbir and cbir_internal that an upgrade made.
CREATE FUNCTION cbir_internal.function_audience()
RETURNS TABLE (routine regprocedure, name text, audience text)
LANGUAGE sql
STABLE
SET search_path FROM CURRENT
AS $$
SELECT
    p.oid::regprocedure,
    p.proname::text,
    coalesce(a.audience, CASE WHEN p.provolatile = 'i' AND NOT p.prosecdef THEN 'public' ELSE 'inner' END)
FROM cbir.sql_object AS o
INNER JOIN pg_proc AS p ON p.oid = to_regprocedure(o.name) AND p.pronamespace IN ('cbir'::regnamespace, 'cbir_internal'::regnamespace)
LEFT JOIN (
    VALUES
    ('similar_images', 'reader'),
    ('similar_studies', 'reader'),
    ('label_suggestions', 'reader'),
    ('explain_match', 'reader'),
    ('find_image', 'reader'),
    ('precision_by', 'reader'),
    ('precision_by_index_size', 'reader'),
    ('precision_without_leakage', 'reader'),
    ('leakage', 'reader'),
    ('leaking_image', 'reader'),
    ('knn_accuracy', 'reader'),
    ('knn_prediction', 'reader'),
    ('anatomy_up_to', 'reader'),
    ('scored_list', 'reader'),
    ('paired_precision_cell', 'reader'),
    ('encoder_status', 'reader'),
    ('dataset_status', 'reader'),
    ('erasure_hash', 'admin'),
    ('acting_role', 'public'),
    ('rows_are_restricted', 'public'),
    ('sees_all_rows', 'public'),
    ('register_encoder', 'ingest'),
    ('describe_encoder', 'ingest'),
    ('note_rendering', 'ingest'),
    ('note_runtime', 'ingest'),
    ('add_encoder_record', 'ingest'),
    ('erased_source', 'ingest'),
    ('erased_dataset', 'ingest'),
    ('note_pseudonym_key', 'ingest'),
    ('merged_pseudonym', 'ingest'),
    ('check_folder', 'ingest'),
    ('store_dataset', 'loader'),
    ('store_images', 'loader'),
    ('store_embeddings', 'loader'),
    ('stored_images', 'loader'),
    ('image_sources', 'loader'),
    ('images_by_source', 'loader'),
    ('repeated_sources', 'loader'),
    ('known_hashes', 'loader'),
    ('encoded_images', 'loader'),
    ('unencoded_images', 'loader'),
    ('pending_images', 'loader'),
    ('pending_roots', 'loader'),
    ('count_pending', 'loader'),
    ('lock_images', 'loader'),
    ('record_damage', 'loader'),
    ('settle_pixels', 'loader'),
    ('body_parts', 'loader'),
    ('record_failures', 'loader'),
    ('resolve_failures', 'loader'),
    ('resolve_gone_failures', 'loader'),
    ('resolve_gone_lists', 'loader'),
    ('create_embedding_table', 'owner'),
    ('erase_patient', 'admin'),
    ('merge_patients', 'admin'),
    ('restore_certificates', 'admin'),
    ('reapply_erasures', 'admin'),
    ('set_row_security', 'admin'),
    ('confirm_access', 'admin'),
    ('access_fault', 'admin'),
    ('wrong_grant', 'admin'),
    ('wrong_call', 'admin'),
    ('trigger_definition', 'admin'),
    ('table_privilege', 'owner'),
    ('certify_erasure', 'owner'),
    ('erase_from_runs', 'owner'),
    ('erase_from_probes', 'owner'),
    ('erase_images', 'owner'),
    ('redact_audit', 'owner'),
    ('redacted_search', 'owner'),
    ('erased_purpose', 'owner'),
    ('stated_purpose', 'owner'),
    ('searched_images', 'owner'),
    ('check_role', 'owner'),
    ('check_root', 'owner'),
    ('create_triggers', 'owner'),
    ('function_audience', 'owner'),
    ('grant_roles', 'owner'),
    ('grant_table', 'owner'),
    ('guard_audit', 'owner'),
    ('hand_over', 'owner'),
    ('note_setting', 'owner'),
    ('protect_table', 'owner'),
    ('refuse_erased', 'owner'),
    ('refuse_merged', 'owner'),
    ('note_merge', 'owner'),
    ('merge_in_dataset', 'owner'),
    ('refuse_merge', 'owner'),
    ('revoke_direct_access', 'owner'),
    ('sees_dataset', 'owner')
) AS a (name, audience) ON a.name = p.proname
WHERE o.kind = 'routine'
$$;

COMMENT ON FUNCTION cbir_internal.function_audience() IS
'Lists who may call each function: reader, loader, ingest, admin, owner, inner or public.';
