-- Title: Precision at N of each dataset of the queries
-- Description: cbir.precision_by('dataset') as a view; all views of this folder have the same columns.
CREATE VIEW cbir.precision_by_dataset WITH (security_invoker = TRUE) AS
SELECT * FROM cbir.precision_by('dataset');

COMMENT ON VIEW cbir.precision_by_dataset IS
'One row per run, dataset of the queries and N.';
