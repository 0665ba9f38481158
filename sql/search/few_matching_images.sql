-- Title: The images that pass a filter, where they are few
-- Description: What a search compares exactly. A label or a range of dates that few images have is looked up first, by
--   its own index, and the other conditions are tested on what it gives.
-- Inputs: the filter; the largest number of images that is of use.
-- Returns: their ids; NULL when there are more.
CREATE FUNCTION cbir_internal.few_matching_images(filter cbir.image_filter, at_most bigint)
RETURNS bigint[]
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    rest cbir.image_filter := filter;
    part cbir.image_filter;
    label_ids bigint [];
    narrowed bigint [];
    found bigint [];
    previous text[];
BEGIN
    IF filter.label IS NOT NULL THEN
        part.label := filter.label;
        -- Where there is nothing else to begin with, no estimate is needed.
        IF part IS NOT DISTINCT FROM filter OR cbir_internal.estimated_matches(part) <= at_most THEN
            label_ids := cbir_internal.label_and_below(filter.label);
            -- An image has a label once; taking out what is there once would take longer than collecting it.
            narrowed := CASE
                WHEN cardinality(label_ids) = 1 THEN ARRAY(
                    SELECT il.image_id FROM cbir.image_label AS il
                    WHERE il.value = 1 AND il.label_id = label_ids[1]
                    LIMIT at_most + 1
                )
                ELSE ARRAY(
                    SELECT DISTINCT il.image_id FROM cbir.image_label AS il
                    WHERE il.value = 1 AND il.label_id = ANY(label_ids)
                    LIMIT at_most + 1
                )
            END;
            rest.label := NULL;
        END IF;
    END IF;
    IF narrowed IS NULL AND num_nonnulls(filter.study_from, filter.study_to) > 0 THEN
        part := NULL;
        part.study_from := filter.study_from;
        part.study_to := filter.study_to;
        IF cbir_internal.estimated_matches(part) <= at_most THEN
            narrowed := ARRAY(
                SELECT i.image_id
                FROM cbir.study AS st
                INNER JOIN cbir.image AS i ON i.study_id = st.study_id
                WHERE
                    st.study_date >= coalesce(filter.study_from, '-infinity')
                    AND st.study_date <= coalesce(filter.study_to, 'infinity')
                LIMIT at_most + 1
            );
            rest.study_from := NULL;
            rest.study_to := NULL;
        END IF;
    END IF;
    IF cardinality(narrowed) > at_most THEN
        -- Alone more than expected; the other conditions may still leave few.
        rest := filter;
    ELSIF narrowed IS NOT NULL THEN
        rest.image_ids := CASE
            WHEN filter.image_ids IS NULL THEN narrowed
            ELSE ARRAY(SELECT n.id FROM unnest(narrowed) AS n (id) WHERE n.id = ANY(filter.image_ids))
        END;
    END IF;
    IF num_nonnulls(rest.dataset, rest.modality, rest.anatomic_region, rest.label, rest.split, rest.study_from, rest.study_to) = 0
        AND NOT cbir_internal.rows_are_restricted() THEN
        found := rest.image_ids;
    ELSE
        previous := cbir_internal.swap_settings('{enable_seqscan,off,jit,off}');
        EXECUTE 'SELECT array_agg(image_id) FROM (SELECT m.image_id FROM cbir_internal.matching_image($1) AS m LIMIT $2) AS bounded'
            INTO found
            USING rest, at_most + 1;
        previous := cbir_internal.swap_settings(previous);
        found := coalesce(found, '{}');
    END IF;
    RETURN CASE WHEN cardinality(found) <= at_most THEN found END;
END
$$;

COMMENT ON FUNCTION cbir_internal.few_matching_images(cbir.image_filter, bigint) IS
'Ids of the images that pass a filter; NULL when there are more than the given number.';
