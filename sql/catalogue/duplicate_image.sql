-- Title: Images whose files are identical
-- Description: Lists every image whose file equals another's byte for byte, with the number of copies. Such images keep
--   their own rows and labels. Copies on both sides of a split make precision look better than it is.
CREATE VIEW cbir.duplicate_image WITH (security_invoker = TRUE) AS
SELECT
    copies.sha256,
    i.image_id,
    d.name || '' AS dataset,
    i.source || '' AS source,
    i.split || '' AS split,
    copies.copies,
    copies.splits > 1 AS straddles_splits
FROM (
    SELECT
        encode(f.sha256, 'hex') AS sha256,
        f.sha256 AS raw_sha256,
        count(*) AS copies,
        count(DISTINCT f.split) AS splits
    FROM cbir.image AS f
    WHERE f.sha256 IS NOT NULL
    GROUP BY f.sha256
    HAVING count(*) > 1
) AS copies
INNER JOIN cbir.image AS i ON copies.raw_sha256 = i.sha256
INNER JOIN cbir.dataset AS d ON i.dataset_id = d.dataset_id;

COMMENT ON VIEW cbir.duplicate_image IS
'Lists images whose files are identical to another''s, and whether the copies straddle train, val and test.';
