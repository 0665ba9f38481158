-- Title: Precision at N of each class (label of the query)
-- Description: cbir.precision_by('class') as a view; all views of this folder have the same columns.
CREATE VIEW cbir.precision_by_class WITH (security_invoker = TRUE) AS
SELECT * FROM cbir.precision_by('class');

COMMENT ON VIEW cbir.precision_by_class IS
'One row per run, class and N: class-wise precision.';
