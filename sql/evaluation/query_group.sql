-- Title: Group that a query counts in
-- Description: Returns the group for "by run, class, dataset, modality or anatomic region", the same for all metrics.
--   The planner replaces the call by the one branch that is asked for.
-- Inputs: run, class, dataset, modality or anatomic_region; the query's label, its dataset's name, its modality and its
--   anatomic region.
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
'Returns the name of the group that a query counts in: all, its class, dataset, modality or anatomic region.';
