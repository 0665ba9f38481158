-- Title: Datasets in readable form
-- Description: Lists datasets, one per row, with their readers and their folders on the machine that ingested them.
--   Columns are expressions; cbir.image_overview gives the reason.
CREATE VIEW cbir.dataset_overview WITH (security_invoker = TRUE) AS
SELECT
    d.dataset_id,
    d.name || '' AS dataset,
    d.reader || '' AS reader,
    d.root || '' AS root,
    d.created_at + interval '0' AS created_at
FROM cbir.dataset AS d;

COMMENT ON VIEW cbir.dataset_overview IS
'Lists datasets, one per row: name, reader, folder.';
