-- Title: Precision at N of each anatomic region of the queries
-- Description: cbir.precision_by('anatomic_region') as a view; all views of this folder have the same columns.
CREATE VIEW cbir.precision_by_anatomic_region WITH (security_invoker = TRUE) AS
SELECT * FROM cbir.precision_by('anatomic_region');

COMMENT ON VIEW cbir.precision_by_anatomic_region IS
'One row per run, anatomic region of the queries and N.';
