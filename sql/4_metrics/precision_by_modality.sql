-- Title: Precision at N of each modality of the queries
-- Description: cbir.precision_by('modality') as a view; all views of this folder have the same columns.
CREATE VIEW cbir.precision_by_modality WITH (security_invoker = TRUE) AS
SELECT * FROM cbir.precision_by('modality');

COMMENT ON VIEW cbir.precision_by_modality IS
'One row per run, modality of the queries and N.';
