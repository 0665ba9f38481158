-- Title: Images that take part in a linear probe
-- Description: Returns the images of the three splits that the paper's protocol selects, which have exactly one label
--   each (see protocol_image). in_later_split tells of a train image that its patient has a val or test image, and of a
--   val image that its patient has a test image: such an image lets the probe recognise the patient.
-- Reference: the same as cbir_internal.protocol_image.
-- Inputs: names of datasets (NULL: all), and the seed of drawn splits.
CREATE FUNCTION cbir_internal.probe_image(datasets text[], split_seed bigint)
RETURNS TABLE (image_id bigint, patient_id bigint, label_id bigint, split text, in_later_split boolean)
LANGUAGE sql
STABLE
SET search_path FROM CURRENT
AS $$
SELECT
    p.image_id,
    p.patient_id,
    p.label_ids[1],
    s.split,
    p.patient_id IS NOT NULL AND s.place < max(s.place) OVER (PARTITION BY p.patient_id)
FROM (VALUES ('train', 1), ('val', 2), ('test', 3)) AS s (split, place)
CROSS JOIN LATERAL cbir_internal.protocol_image('paper', s.split, $1, $2) AS p
$$;

COMMENT ON FUNCTION cbir_internal.probe_image(text[], bigint) IS
'Returns the images of a linear probe with label and split, and if their patient has images in a later split.';
