-- Title: Store the labels of images
-- Description: Adds labels to images, and names of labels that are new. The images must have none of these labels yet.
-- Inputs: ids of images, and for each an object of labels and values (1 positive, 0 negative, -1 uncertain).
CREATE FUNCTION cbir_internal.store_labels(image_ids bigint[], labels jsonb[])
RETURNS void
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
BEGIN
    INSERT INTO cbir.label (name)
    SELECT DISTINCT l.name
    FROM unnest(labels) AS g (labels)
    CROSS JOIN LATERAL jsonb_object_keys(g.labels) AS l (name)
    WHERE NOT EXISTS (SELECT FROM cbir.label AS known WHERE known.name = l.name)
    ORDER BY l.name
    ON CONFLICT ON CONSTRAINT label_name_key DO NOTHING;
    INSERT INTO cbir.image_label (image_id, label_id, value)
    SELECT g.image_id, l.label_id, given.value::smallint
    FROM unnest(image_ids, labels) AS g (image_id, labels)
    CROSS JOIN LATERAL jsonb_each_text(g.labels) AS given (name, value)
    INNER JOIN cbir.label AS l ON l.name = given.name;
END
$$;

COMMENT ON FUNCTION cbir_internal.store_labels(bigint[], jsonb[]) IS
'Adds labels to images, and names of labels that are new.';
