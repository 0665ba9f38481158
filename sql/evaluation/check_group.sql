-- Title: Refuse a grouping that is not there
-- Description: A misspelt one would give one nameless group.
-- Inputs: what to group queries by.
CREATE FUNCTION cbir_internal.check_group(grouped_by text)
RETURNS text
LANGUAGE plpgsql
IMMUTABLE
SET search_path FROM CURRENT
AS $$
BEGIN
    IF grouped_by IS NULL OR grouped_by NOT IN ('run', 'class', 'dataset', 'modality', 'anatomic_region') THEN
        RAISE EXCEPTION 'queries cannot be grouped by "%"', coalesce(grouped_by, 'NULL') USING
            ERRCODE = 'invalid_parameter_value',
            HINT = 'Give one of run, class, dataset, modality, anatomic_region.';
    END IF;
    RETURN grouped_by;
END
$$;

COMMENT ON FUNCTION cbir_internal.check_group(text) IS
'The grouping, or an error when it is none of run, class, dataset, modality and anatomic_region.';
