-- Title: Check that a filter names things that exist
-- Description: Raises an error, with the existing names, if the filter names a dataset, modality, label or another
--   value that does not exist here, and if its first study date is after its last. So a misspelt filter differs
--   from one that nothing passes. Such a filter lets nothing pass, so the search functions call this only after they
--   found nothing; a search that finds something pays nothing for it. Under row-level security a thing exists if this
--   role may see it. Image ids that do not exist are no error: images are erased, and a stored list must keep working.
-- Inputs: the filter of a search.
CREATE FUNCTION cbir_internal.check_filter(filter cbir.image_filter)
RETURNS void
LANGUAGE plpgsql
STABLE
SET search_path FROM CURRENT
AS $$
DECLARE
    kind text;
    asked text;
    given text;
    known text[];
BEGIN
    IF (filter).study_from > (filter).study_to THEN
        RAISE EXCEPTION 'study_from (%) lies after study_to (%)', (filter).study_from, (filter).study_to USING
            ERRCODE = 'invalid_parameter_value',
            HINT = 'Give the earlier day as study_from.';
    END IF;
    -- The kinds are those of cbir.filter_value.
    FOR asked, given IN
        SELECT v.kind, v.given
        FROM (
            VALUES
            (1, 'dataset', (filter).dataset), (2, 'modality', (filter).modality),
            (3, 'anatomic region', (filter).anatomic_region), (4, 'view', (filter).view),
            (5, 'image type', (filter).image_type), (6, 'manufacturer', (filter).manufacturer),
            (7, 'body part', (filter).body_part)
        ) AS v (place, kind, given)
        WHERE v.given IS NOT NULL
        ORDER BY v.place
    LOOP
        known := ARRAY(SELECT f.value FROM cbir.filter_value AS f WHERE f.kind = asked ORDER BY f.value);
        IF given <> ALL (known) THEN
            kind := asked;
            EXIT;
        END IF;
    END LOOP;
    IF kind IS NULL AND (filter).laterality NOT IN ('L', 'R', 'B', 'U') THEN
        known := '{L,R,B,U}';
        kind := 'laterality';
        given := (filter).laterality;
    END IF;
    IF kind IS NULL AND (filter).label IS NOT NULL AND NOT EXISTS (
        SELECT FROM cbir.label AS l WHERE l.name = (filter).label OR starts_with(l.name, (filter).label || '/')
    ) THEN
        known := ARRAY(SELECT l.name FROM cbir.label AS l ORDER BY l.name);
        kind := 'label';
        given := (filter).label;
    END IF;
    IF kind IS NULL AND (filter).split NOT IN ('train', 'val', 'test') THEN
        known := '{train,val,test}';
        kind := 'split';
        given := (filter).split;
    END IF;
    IF kind IS NOT NULL THEN
        RAISE EXCEPTION 'there is no % "%" in this database', kind, given USING
            ERRCODE = 'undefined_object',
            HINT = coalesce('Known: ' || cbir_internal.listed(known) || '.', 'There is none yet.');
    END IF;
END
$$;

COMMENT ON FUNCTION cbir_internal.check_filter(cbir.image_filter) IS
'Raises an error, with the existing names, if a filter of a search names a value that does not exist here, or if its'
' dates exclude each other.';
