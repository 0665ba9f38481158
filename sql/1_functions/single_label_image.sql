-- Title: Images with exactly one label
-- Description: The paper's selection: exactly one positive label and no uncertain one; what has several, or
--   none, takes no part in the evaluation.
-- Reference: Denner et al., Leveraging Foundation Models for Content-Based Medical Image Retrieval in Radiology,
--   and its authors' code.
-- Inputs: a split, and the names of datasets (NULL: all).
CREATE FUNCTION cbir.single_label_image(split text, datasets text[] DEFAULT NULL)
RETURNS TABLE (image_id bigint, label_id bigint)
LANGUAGE sql
STABLE
AS $$
SELECT i.image_id, min(il.label_id) FILTER (WHERE il.value = 1) AS label_id
FROM cbir.image AS i
INNER JOIN cbir.dataset AS d ON d.dataset_id = i.dataset_id
INNER JOIN cbir.image_label AS il ON il.image_id = i.image_id
WHERE
    i.split = single_label_image.split
    AND (single_label_image.datasets IS NULL OR d.name = any(single_label_image.datasets))
GROUP BY i.image_id
HAVING count(*) FILTER (WHERE il.value = 1) = 1 AND count(*) FILTER (WHERE il.value = -1) = 0
$$;

COMMENT ON FUNCTION cbir.single_label_image(text, text[]) IS
'Images of a split that have exactly one positive and no uncertain label, with that label: the paper''s selection.';
