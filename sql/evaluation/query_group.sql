-- Title: The group that a query counts in
-- Description: What "by run, class, dataset, modality or anatomic region" means, for all metrics alike. The planner
--   puts the one branch that is asked for in place of the call.
-- Inputs: run, class, dataset, modality or anatomic_region; of the query, its label, its dataset's name, its modality
--   and its anatomic region.
CREATE FUNCTION cbir_internal.query_group(
    grouped_by text, label text, dataset text, modality text, anatomic_region text
)
RETURNS text
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
AS $$
SELECT CASE $1
    WHEN 'run' THEN 'all'
    WHEN 'class' THEN $2
    WHEN 'dataset' THEN $3
    WHEN 'modality' THEN coalesce($4, '(none)')
    WHEN 'anatomic_region' THEN coalesce($5, '(none)')
END
$$;

COMMENT ON FUNCTION cbir_internal.query_group(text, text, text, text, text) IS
'The name of the group that a query counts in: all, its class, dataset, modality or anatomic region.';
