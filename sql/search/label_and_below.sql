-- Title: Find a label and all labels below it
-- Description: Returns the labels that a filter by a label matches: XR/chest matches XR/chest and XR/chest/Pneumonia,
--   but not XR/chestwall.
-- Inputs: the label's name.
-- Returns: ids; an empty array if there is no such label.
CREATE FUNCTION cbir_internal.label_and_below(label text)
RETURNS bigint[]
LANGUAGE sql
STABLE
PARALLEL SAFE
AS $$
SELECT ARRAY(SELECT l.label_id FROM cbir.label AS l WHERE l.name = $1 OR starts_with(l.name, $1 || '/'))
$$;

COMMENT ON FUNCTION cbir_internal.label_and_below(text) IS
'Returns the ids of a label and of all labels below it.';
