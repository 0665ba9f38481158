-- Title: Precision at N of a whole run
-- Description: cbir.precision_by('run') as a view; all views of this folder have the same columns.
CREATE VIEW cbir.precision_by_run WITH (security_invoker = TRUE) AS
SELECT * FROM cbir.precision_by('run');

COMMENT ON VIEW cbir.precision_by_run IS
'One row per run and N: the form of the paper''s Table 1.';
