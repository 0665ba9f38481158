-- Title: Check the grouping of queries
-- Description: Refuses an unknown grouping. A misspelt one would give one nameless group.
-- Inputs: the grouping of queries.
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
'Returns the grouping, or raises an error if it is none of run, class, dataset, modality and anatomic_region.';
