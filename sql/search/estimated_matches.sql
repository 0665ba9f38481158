-- Title: Estimate how many images pass a filter
-- Description: Returns the planner's estimate. The planner knows from its statistics how common each modality, region,
--   date, dataset and label is, and answers in a fraction of the time of counting. Datasets and labels are looked up by
--   their ids, because for names the planner knows only an average. Fields count as independent. The estimate decides
--   how a search runs, never what it returns.
-- Inputs: the filter.
CREATE FUNCTION cbir_internal.estimated_matches(filter cbir.image_filter)
RETURNS double precision
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    rest cbir.image_filter := filter;
    plan json;
    images double precision;
    estimate double precision;
BEGIN
    SELECT greatest(c.reltuples, 1) INTO images FROM pg_class AS c WHERE c.oid = 'cbir.image'::regclass;
    rest.dataset := NULL;
    rest.label := NULL;
    rest.image_ids := NULL;
    IF rest IS NULL THEN
        estimate := images;
    ELSE
        EXECUTE 'EXPLAIN (FORMAT json) SELECT FROM cbir_internal.matching_image($1) AS m' INTO plan USING rest;
        estimate := plan -> 0 -> 'Plan' ->> 'Plan Rows';
    END IF;
    IF filter.dataset IS NOT NULL THEN
        EXECUTE 'EXPLAIN (FORMAT json) SELECT FROM cbir.image AS i WHERE i.dataset_id = $1' INTO plan
            USING (SELECT d.dataset_id FROM cbir.dataset AS d WHERE d.name = filter.dataset);
        estimate := estimate * least((plan -> 0 -> 'Plan' ->> 'Plan Rows')::double precision / images, 1);
    END IF;
    IF filter.label IS NOT NULL THEN
        EXECUTE 'EXPLAIN (FORMAT json) SELECT FROM cbir.image_label AS il WHERE il.label_id = ANY($1) AND il.value = 1'
            INTO plan
            USING cbir_internal.label_and_below(filter.label);
        estimate := estimate * least((plan -> 0 -> 'Plan' ->> 'Plan Rows')::double precision / images, 1);
    END IF;
    IF filter.image_ids IS NOT NULL THEN
        estimate := estimate * least(cardinality(filter.image_ids) / images, 1);
    END IF;
    RETURN greatest(estimate, 1);
END
$$;

COMMENT ON FUNCTION cbir_internal.estimated_matches(cbir.image_filter) IS
'Returns the planner''s estimate of the number of images that pass a filter, at least 1.';
