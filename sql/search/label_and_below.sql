-- Title: A label and those below it
-- Description: What a filter by a label means: XR/chest means XR/chest, XR/chest/Pneumonia, but not XR/chestwall.
-- Inputs: the label's name.
-- Returns: ids; none where there is no such label.
CREATE FUNCTION cbir_internal.label_and_below(label text)
RETURNS bigint[]
LANGUAGE sql
STABLE
PARALLEL SAFE
AS $$
SELECT ARRAY(SELECT l.label_id FROM cbir.label AS l WHERE l.name = $1 OR starts_with(l.name, $1 || '/'))
$$;

COMMENT ON FUNCTION cbir_internal.label_and_below(text) IS
'Ids of a label and of those below it.';
