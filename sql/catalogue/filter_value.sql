-- Title: Values that a search can filter by
-- Description: Lists every value that a filter of a search function can name here: datasets, modalities, anatomic
--   regions, labels and the paths above them.
--     SELECT value FROM cbir.filter_value WHERE kind = 'modality';
CREATE VIEW cbir.filter_value WITH (security_invoker = TRUE) AS
SELECT
    'dataset' AS kind,
    d.name || '' AS value
FROM cbir.dataset AS d
UNION ALL
SELECT DISTINCT
    'modality' AS kind,
    i.modality || '' AS value
FROM cbir.image AS i
WHERE i.modality IS NOT NULL
UNION ALL
SELECT DISTINCT
    'anatomic region' AS kind,
    i.anatomic_region || '' AS value
FROM cbir.image AS i
WHERE i.anatomic_region IS NOT NULL
UNION ALL
SELECT DISTINCT
    'view' AS kind,
    i.view || '' AS value
FROM cbir.image AS i
WHERE i.view IS NOT NULL
UNION ALL
SELECT DISTINCT
    'laterality' AS kind,
    i.laterality || '' AS value
FROM cbir.image AS i
WHERE i.laterality IS NOT NULL
UNION ALL
SELECT DISTINCT
    'manufacturer' AS kind,
    i.manufacturer || '' AS value
FROM cbir.image AS i
WHERE i.manufacturer IS NOT NULL
UNION ALL
SELECT DISTINCT
    'body part' AS kind,
    i.body_part || '' AS value
FROM cbir.image AS i
WHERE i.body_part IS NOT NULL
UNION ALL
SELECT DISTINCT
    'image type' AS kind,
    t.value || '' AS value
FROM cbir.image AS i
CROSS JOIN LATERAL unnest(i.image_type) AS t (value)
UNION ALL
SELECT DISTINCT
    'label' AS kind,
    array_to_string((string_to_array(l.name, '/'))[1:depth.n], '/') AS value
FROM cbir.label AS l
CROSS JOIN LATERAL generate_series(1, cardinality(string_to_array(l.name, '/'))) AS depth (n);

COMMENT ON VIEW cbir.filter_value IS
'Lists values that searches can filter by, per kind: dataset, modality, anatomic region, view, laterality,'
' manufacturer, body part, image type, label.';
