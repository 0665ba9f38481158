-- Title: Search the index under a filter
-- Description: Plans by the estimated number of matches (see plan_search), then walks the index and tests the
--   candidates one by one. It returns no ids if comparing with every match is better: if matches are few, if a short
--   look at the nearest candidates meets none (they lie elsewhere), and if the walk ends before it has met enough. If
--   the look meets four times as many matches as an even spread would, the first walk goes only as deep as half that
--   density requires. This happens by chance to one query in 100,000.
-- Inputs: an encoder; the build of its index; a vector of length 1; k; a filter; ids of images to leave out; a mode
--   (approximate skips the plan).
-- Returns: ids and distances, nearest first; NULL: compare exactly. passing, the ids of all images that pass, if they
--   were collected.
CREATE FUNCTION cbir_internal.walk_matching_images(
    encoder cbir.encoder,
    build cbir.index_build,
    query vector,
    k integer,
    filter cbir.image_filter,
    left_out bigint[],
    mode text,
    OUT ids bigint[],
    OUT distances double precision[],
    OUT passing bigint[]
)
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    dense constant integer := 4;
    label_ids constant bigint[] := cbir_internal.label_and_below(filter.label);
    matches double precision := cbir_internal.estimated_matches(filter);
    plan record;
    walk record;
    walked record;
    looked_at integer;
    met integer;
    -- Shares of matches to walk for, in this order, until a walk meets enough.
    shares double precision[] := '{}';
BEGIN
    LOOP
        plan := cbir_internal.plan_search(
            build.method, build.parameters, build.search_settings, build.rows_indexed, (encoder).dim, k, matches
        );
        IF mode = 'approximate' THEN
            shares := ARRAY[plan.share];
            EXIT;
        END IF;
        IF looked_at IS NULL AND plan.look_at IS NOT NULL THEN
            looked_at := plan.look_at;
            walk := cbir_internal.index_walk(
                build.method, build.parameters, build.search_settings, build.rows_indexed, (encoder).dim, k, plan.share,
                look_at => looked_at + cardinality(left_out)
            );
            walked := cbir_internal.walked_images(
                encoder, query, 1, filter, label_ids, left_out, walk.nearest_first, walk.candidates, looked_at,
                walk.settings
            );
            met := walked.met;
            IF met >= dense * plan.share * looked_at THEN
                -- Half, because matches may get rarer with the distance.
                shares := ARRAY[0.5 * met / looked_at];
            END IF;
        END IF;
        IF matches > plan.exact_up_to AND met IS DISTINCT FROM 0 THEN
            shares := shares || plan.share;
        END IF;
        EXIT WHEN matches > plan.exact_up_to OR shares <> '{}';
        passing := cbir_internal.few_matching_images(filter, 4 * plan.exact_up_to);
        IF passing IS NOT NULL THEN
            RETURN;
        END IF;
        -- More images match, so the estimate was far too low.
        matches := 4 * plan.exact_up_to;
    END LOOP;
    FOREACH plan.share IN ARRAY shares LOOP
        walk := cbir_internal.index_walk(
            build.method, build.parameters, build.search_settings, build.rows_indexed, (encoder).dim, k, plan.share
        );
        walked := cbir_internal.walked_images(
            encoder, query, k, filter, label_ids, left_out, walk.nearest_first,
            -- Images to leave out lie near the query.
            walk.candidates + cardinality(left_out), walk.kept, walk.settings
        );
        -- If matches are rarer here than elsewhere, near ones may lie beyond the end of the walk.
        IF walked.met = walk.kept THEN
            ids := walked.ids;
            distances := walked.distances;
            RETURN;
        END IF;
    END LOOP;
END
$$;

COMMENT ON FUNCTION cbir_internal.walk_matching_images(
    cbir.encoder, cbir.index_build, vector, integer, cbir.image_filter, bigint[], text
) IS
'Returns the k nearest images that pass a filter by the vector index, or NULL if comparing exactly is better.';
