-- Title: Find the images that pass a filter, if they are few
-- Description: Returns the images that a search compares exactly. If the filter has a label or a range of dates that
--   few images match, their own index gives these images first. The other conditions are then tested on them.
-- Inputs: the filter; the largest useful number of images.
-- Returns: their ids; NULL if there are more.
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
        -- A filter with a label only needs no estimate: there is nothing else to start with.
        IF part IS NOT DISTINCT FROM filter OR cbir_internal.estimated_matches(part) <= at_most THEN
            label_ids := cbir_internal.label_and_below(filter.label);
            -- An image has a label at most once, and DISTINCT would take longer than collecting the ids.
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
        -- This field alone matches more than expected; with the other conditions, few may remain.
        rest := filter;
    ELSIF narrowed IS NOT NULL THEN
        rest.image_ids := CASE
            WHEN filter.image_ids IS NULL THEN narrowed
            ELSE ARRAY(SELECT n.id FROM unnest(narrowed) AS n (id) WHERE n.id = ANY(filter.image_ids))
        END;
    END IF;
    part := rest;
    part.image_ids := NULL;
    IF part IS NULL
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
'Returns the ids of the images that pass a filter; NULL if there are more than the given number.';
