-- Title: Check that a filter names things that exist
-- Description: Raises an error, with the existing names, if the filter names a dataset, modality, anatomic region,
--   label or split that does not exist, and if its first study date is after its last. So a misspelt filter differs
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
    given text;
    known text[];
BEGIN
    IF (filter).study_from > (filter).study_to THEN
        RAISE EXCEPTION 'study_from (%) lies after study_to (%)', (filter).study_from, (filter).study_to USING
            ERRCODE = 'invalid_parameter_value',
            HINT = 'Give the earlier day as study_from.';
    END IF;
    IF (filter).dataset IS NOT NULL THEN
        known := ARRAY(SELECT d.name FROM cbir.dataset AS d ORDER BY d.name);
        IF (filter).dataset <> ALL (known) THEN
            kind := 'dataset';
            given := (filter).dataset;
        END IF;
    END IF;
    IF kind IS NULL AND (filter).modality IS NOT NULL THEN
        known := ARRAY(SELECT DISTINCT i.modality FROM cbir.image AS i WHERE i.modality IS NOT NULL ORDER BY 1);
        IF (filter).modality <> ALL (known) THEN
            kind := 'modality';
            given := (filter).modality;
        END IF;
    END IF;
    IF kind IS NULL AND (filter).anatomic_region IS NOT NULL THEN
        known := ARRAY(
            SELECT DISTINCT i.anatomic_region FROM cbir.image AS i WHERE i.anatomic_region IS NOT NULL ORDER BY 1
        );
        IF (filter).anatomic_region <> ALL (known) THEN
            kind := 'anatomic region';
            given := (filter).anatomic_region;
        END IF;
    END IF;
    IF kind IS NULL AND (filter).view IS NOT NULL THEN
        known := ARRAY(SELECT DISTINCT i.view FROM cbir.image AS i WHERE i.view IS NOT NULL ORDER BY 1);
        IF (filter).view <> ALL (known) THEN
            kind := 'view';
            given := (filter).view;
        END IF;
    END IF;
    IF kind IS NULL AND (filter).image_type IS NOT NULL THEN
        known := ARRAY(SELECT DISTINCT t.value FROM cbir.image AS i CROSS JOIN unnest(i.image_type) AS t (value) ORDER BY 1);
        IF (filter).image_type <> ALL (known) THEN
            kind := 'image type';
            given := (filter).image_type;
        END IF;
    END IF;
    IF kind IS NULL AND (filter).manufacturer IS NOT NULL THEN
        known := ARRAY(SELECT DISTINCT i.manufacturer FROM cbir.image AS i WHERE i.manufacturer IS NOT NULL ORDER BY 1);
        IF (filter).manufacturer <> ALL (known) THEN
            kind := 'manufacturer';
            given := (filter).manufacturer;
        END IF;
    END IF;
    IF kind IS NULL AND (filter).body_part IS NOT NULL THEN
        known := ARRAY(SELECT DISTINCT i.body_part FROM cbir.image AS i WHERE i.body_part IS NOT NULL ORDER BY 1);
        IF (filter).body_part <> ALL (known) THEN
            kind := 'body part';
            given := (filter).body_part;
        END IF;
    END IF;
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
'Raises an error, with the existing names, if a filter of a search names a dataset, modality, region, label or split'
' that does not exist, or if its dates exclude each other.';
