-- Title: Condition on rows that a restricted role sees
-- Description: Returns the condition of a table's policy under row-level security. It rests on cbir.dataset_access: a
--   role sees the datasets given there to the role itself or to a role that it inherits from. A row counts only while
--   name and OID belong to one role, because a role that was created again is another role. Subqueries of a policy are
--   under row-level security themselves, so an image follows its dataset, an image's label its image, and a result its
--   run. A role sees a run only if it sees all datasets of the run, because the run's lists hold images of all of them.
--   A role sees a label if it sees an image that carries it. cbir_ingest sees all labels, whose names are unique across
--   datasets, and failures that belong to no dataset. The condition first tests if the role ingests, because otherwise
--   each lookup of a name would scan all labels of images. Index builds count everybody's vectors, so no restricted
--   role sees them. The condition judges the acting role (see acting_expression). NULL: the table holds no data of a
--   dataset.
-- Inputs: the name of a table of schema cbir.
CREATE FUNCTION cbir_internal.tenant_condition(table_name text)
RETURNS text
LANGUAGE sql
IMMUTABLE
SET search_path FROM CURRENT
AS $$
SELECT CASE
    WHEN $1 = 'dataset_access' THEN format(
        'EXISTS (SELECT FROM pg_catalog.pg_roles AS r WHERE r.rolname = role_name AND r.oid = role_oid'
        ' AND pg_catalog.pg_has_role(%s, r.oid, ''USAGE''))', cbir_internal.acting_expression()
    )
    WHEN $1 = 'dataset' THEN 'name IN (SELECT a.dataset FROM cbir.dataset_access AS a)'
    WHEN $1 IN ('patient', 'merged_patient', 'study', 'image') THEN 'dataset_id IN (SELECT d.dataset_id FROM cbir.dataset AS d)'
    WHEN $1 = 'failure' THEN
        'dataset_id IN (SELECT d.dataset_id FROM cbir.dataset AS d) OR (dataset_id IS NULL AND ' || ingests.condition || ')'
    WHEN $1 = 'series' THEN 'EXISTS (SELECT FROM cbir.study AS s WHERE s.study_id = series.study_id)'
    WHEN $1 = 'image_label' OR starts_with($1, 'embedding_')
        THEN format('EXISTS (SELECT FROM cbir.image AS i WHERE i.image_id = %I.image_id)', $1)
    WHEN $1 = 'label' THEN
        ingests.condition || ' OR EXISTS (SELECT FROM cbir.image_label AS il WHERE il.label_id = label.label_id)'
    WHEN $1 IN ('search_run', 'probe_run')
        THEN 'cardinality(datasets) > 0 AND datasets <@ ARRAY(SELECT d.name FROM cbir.dataset AS d)'
    WHEN $1 IN ('search_result', 'search_result_label')
        THEN format('EXISTS (SELECT FROM cbir.search_run AS r WHERE r.run_id = %I.run_id)', $1)
    WHEN $1 IN ('probe_class', 'probe_prediction')
        THEN format('EXISTS (SELECT FROM cbir.probe_run AS r WHERE r.probe_id = %I.probe_id)', $1)
    WHEN $1 = 'index_build' THEN 'FALSE'
END
FROM (
    SELECT format(
        '(SELECT EXISTS (SELECT FROM pg_catalog.pg_roles AS r WHERE r.rolname = ''cbir_ingest'''
        ' AND pg_catalog.pg_has_role(%s, r.oid, ''USAGE'')))', cbir_internal.acting_expression()
    ) AS condition
) AS ingests
$$;

COMMENT ON FUNCTION cbir_internal.tenant_condition(text) IS
'Returns the condition of a table''s policy under row-level security; NULL for tables that hold no data of a dataset.';
