-- Title: Images that take part in an evaluation, with the labels that count
-- Description: Returns the images of a split that a protocol selects. Protocol 'paper' selects images with exactly one
--   positive label, with that label. It leaves out an image that has an uncertain label, except in MIMIC-CXR, where
--   only positive labels count. CheXpert's Support Devices does not count as a label. Protocol 'any-label' selects
--   images with at least one positive label (Support Devices aside), with all of them. Conditions stand in CASE because
--   the planner then expects half of the images to pass. For an equation with an expression it expects one image in
--   200, and looks their labels and embeddings up one by one.
-- Reference: Denner et al., Leveraging Foundation Models for Content-Based Medical Image Retrieval in Radiology, and
--   its authors' code.
-- Inputs: the protocol, a split as evaluation_split returns it, names of datasets (NULL: all), and the seed of drawn
--   splits.
CREATE FUNCTION cbir_internal.protocol_image(
    protocol text, split text, datasets text[] DEFAULT NULL, seed bigint DEFAULT 0
)
RETURNS TABLE (image_id bigint, patient_id bigint, label_ids bigint[])
LANGUAGE sql
STABLE
PARALLEL SAFE
AS $$
SELECT
    i.image_id,
    i.patient_id,
    array_agg(il.label_id ORDER BY il.label_id) FILTER (WHERE il.value = 1) AS label_ids
FROM cbir.image AS i
INNER JOIN cbir.dataset AS d ON d.dataset_id = i.dataset_id
LEFT JOIN cbir.patient AS p ON p.patient_id = i.patient_id
INNER JOIN cbir.image_label AS il ON il.image_id = i.image_id
INNER JOIN cbir.label AS l ON l.label_id = il.label_id
WHERE
    (protocol_image.datasets IS NULL OR d.name = any(protocol_image.datasets))
    AND CASE
        WHEN cbir_internal.evaluation_split(d.reader, i.split, p.pseudonym, protocol_image.seed) = protocol_image.split THEN TRUE
    END
    AND NOT (d.reader = 'chexpert' AND l.name = 'XR/chest/Support Devices')
GROUP BY i.image_id, d.reader
HAVING
    CASE
        WHEN count(*) FILTER (WHERE il.value = 1) = 0 THEN FALSE
        WHEN protocol_image.protocol = 'any-label' THEN TRUE
        WHEN count(*) FILTER (WHERE il.value = 1) > 1 THEN FALSE
        ELSE d.reader = 'mimic-cxr' OR count(*) FILTER (WHERE il.value = -1) = 0
    END
$$;

COMMENT ON FUNCTION cbir_internal.protocol_image(text, text, text[], bigint) IS
'Returns the images of a split that take part in an evaluation under a protocol (paper, any-label), with the labels'
' that count.';
