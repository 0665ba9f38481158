-- Title: Datasets as a person reads them
-- Description: One row per dataset, with its reader and its folder on the machine that ingested it. Columns are
--   expressions, see cbir.image_overview.
CREATE VIEW cbir.dataset_overview WITH (security_invoker = TRUE) AS
SELECT
    d.dataset_id,
    d.name || '' AS dataset,
    d.reader || '' AS reader,
    d.root || '' AS root,
    d.created_at + interval '0' AS created_at
FROM cbir.dataset AS d;

COMMENT ON VIEW cbir.dataset_overview IS
'One row per dataset: name, reader, folder.';
