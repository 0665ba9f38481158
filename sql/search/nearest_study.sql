-- Title: Find the studies nearest to a set of images
-- Description: Returns never fewer than k studies if so many exist. Mode exact compares every image of the query with
--   every image that may match. The other modes take the studies of each query image's nearest images as candidates,
--   and compute their distances exactly. A study that is in no list is at least as far as the lists reach (the mean of
--   their m smallest last distances). If k candidates are nearer than that, no other study can be among the first k.
--   Otherwise the lists are extended; when they have reached their limit, the answer is computed exactly. So only the
--   lists are approximate.
-- Reference: the threshold algorithm of Fagin, Lotem and Naor, Optimal aggregation algorithms for middleware (2003).
-- Inputs: the same as study_distance, and a mode (see nearest_image).
CREATE FUNCTION cbir_internal.nearest_study(
    encoder text,
    query_ids bigint[],
    query_vectors vector[],
    m integer,
    k integer,
    without_study bigint,
    without_patients bigint[],
    filter cbir.image_filter,
    mode text
)
RETURNS TABLE (
    study_id bigint,
    distance double precision,
    query_image_id bigint,
    image_id bigint,
    pair_distance double precision,
    images bigint,
    mode_used text,
    complete boolean
)
LANGUAGE plpgsql
-- With few expected rows, PostgreSQL joins by key; for its default of 1,000 it would read whole tables.
ROWS 10
SET search_path FROM CURRENT
AS $$
DECLARE
    longest constant integer := 10000;
    length integer := least(greatest(4 * k, 100), longest);
    ids bigint[];
    number integer;
    last double precision;
    walked boolean;
    whole boolean;
    candidates bigint[];
    ends double precision[];
    reach double precision;
    any_walked boolean;
    all_whole boolean;
    found cbir.study_match[];
BEGIN
    -- Checks the mode, and finds out whether an image search like this one would walk the index at all.
    SELECT n.mode_used INTO mode_used
    FROM cbir_internal.nearest_image(encoder, query_vectors[1], 1, filter => filter, mode => mode) AS n;
    WHILE mode_used <> 'exact' LOOP
        candidates := '{}';
        ends := '{}';
        any_walked := FALSE;
        all_whole := TRUE;
        FOR place IN 1 .. cardinality(query_ids) LOOP
            SELECT
                array_agg(n.image_id), count(*), max(n.distance), bool_or(n.mode_used <> 'exact'), bool_and(n.complete)
            INTO ids, number, last, walked, whole
            FROM cbir_internal.nearest_image(
                encoder, query_vectors[place], length, without_study => without_study,
                without_patient => without_patients[1], filter => filter, mode => mode
            ) AS n;
            -- A list that is shorter than asked for is complete.
            ends := ends || CASE WHEN number < length THEN 'Infinity' ELSE last END;
            any_walked := any_walked OR coalesce(walked, FALSE);
            all_whole := all_whole AND coalesce(whole, TRUE);
            candidates := ARRAY(
                SELECT c.study_id FROM unnest(candidates) AS c (study_id)
                UNION
                SELECT i.study_id FROM cbir.image AS i WHERE i.image_id = ANY (ids) AND i.study_id IS NOT NULL
            );
        END LOOP;
        reach := (
            SELECT avg(e.distance)
            FROM (SELECT u.distance FROM unnest(ends) AS u (distance) ORDER BY 1 LIMIT m) AS e
        );
        found := ARRAY(
            SELECT s::cbir.study_match
            FROM cbir_internal.study_distance(
                encoder, query_ids, query_vectors, m, k, without_study, without_patients, filter, candidates
            ) AS s
        );
        IF all_whole AND (reach = 'Infinity' OR (cardinality(found) = k AND found[k].distance <= reach)) THEN
            RETURN QUERY
            SELECT f.*, CASE WHEN any_walked THEN 'approximate' ELSE 'exact' END, TRUE FROM unnest(found) AS f;
            RETURN;
        END IF;
        EXIT WHEN length = longest;
        length := least(4 * length, longest);
    END LOOP;
    RETURN QUERY
    SELECT s.*, 'exact', TRUE
    FROM cbir_internal.study_distance(encoder, query_ids, query_vectors, m, k, without_study, without_patients, filter) AS s;
END
$$;

COMMENT ON FUNCTION cbir_internal.nearest_study(
    text, bigint[], vector[], integer, integer, bigint, bigint[], cbir.image_filter, text
) IS
'Returns the k studies nearest to a set of images, the mode that was used, and whether all that exist up to k were'
' returned.';
