-- Title: Patients and files on both sides of a split
-- Description: Counts per pair of different splits (as the datasets define them) the patients with images in both, and
--   the files that are in both byte for byte, also across datasets. For runs of evaluations, and for nearly identical
--   images, see cbir.leakage.
CREATE VIEW cbir.split_leakage WITH (security_invoker = TRUE) AS
WITH held AS (
    SELECT
        'same patient' AS cause,
        i.patient_id::text || '' AS shared_key,
        d.name || '' AS dataset,
        i.split || '' AS split,
        count(*) AS images
    FROM cbir.image AS i
    INNER JOIN cbir.dataset AS d ON i.dataset_id = d.dataset_id
    WHERE i.patient_id IS NOT NULL AND i.split IS NOT NULL
    GROUP BY i.patient_id, d.name, i.split
    UNION ALL
    SELECT
        'identical file' AS cause,
        encode(i.sha256, 'hex') AS shared_key,
        d.name || '' AS dataset,
        i.split || '' AS split,
        count(*) AS images
    FROM cbir.image AS i
    INNER JOIN cbir.dataset AS d ON i.dataset_id = d.dataset_id
    WHERE i.sha256 IS NOT NULL AND i.split IS NOT NULL
    GROUP BY i.sha256, d.name, i.split
)

SELECT
    a.cause,
    a.dataset AS dataset_a,
    a.split AS split_a,
    b.dataset AS dataset_b,
    b.split AS split_b,
    count(*) AS shared,
    sum(a.images)::bigint AS images_a,
    sum(b.images)::bigint AS images_b
FROM held AS a
INNER JOIN held AS b ON a.cause = b.cause AND a.shared_key = b.shared_key AND a.split < b.split
GROUP BY a.cause, a.dataset, a.split, b.dataset, b.split;

COMMENT ON VIEW cbir.split_leakage IS
'Counts patients and identical files that occur in two splits, with the number of images on each side.';
