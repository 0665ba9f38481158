-- Title: Nearest images to a vector, exactly or through the index, and never fewer than there are
-- Description: The search that every other search function stands on.
--   exact        compares with every image that passes the filter: it collects their ids, then reads their vectors
--                by key.
--   approximate  walks the encoder's vector index, as index_walk says for the settings recorded with it, and
--                tests the candidates one by one. When the walk falls short although more exist, the answer is
--                computed exactly instead.
--   auto         approximate when there is an index, but exact when the filter leaves so few images that comparing
--                with them all is faster than walking until enough of them were met, or when a short, narrow walk
--                meets none of them: they lie elsewhere. When it meets four times as many as an
--                even spread would, the next walk goes only as deep as half that density asks for.
--   Where row-level security hides images from the caller every search is exact, whatever the mode; so it is while
--   there is a second index that a walk might take (see rival_index).
--   "+ 0" keeps an exact search off the index.
-- Inputs: an encoder, a vector of its dimension, k, what to leave out (an image, a patient's, a study's), a filter
--   (see cbir.image_filter), a mode.
CREATE FUNCTION cbir_internal.nearest_image(
    encoder text,
    query vector,
    k integer DEFAULT 10,
    without_image bigint DEFAULT NULL,
    without_patient bigint DEFAULT NULL,
    without_study bigint DEFAULT NULL,
    filter cbir.image_filter DEFAULT NULL,
    mode text DEFAULT 'auto'
)
RETURNS TABLE (rank integer, image_id bigint, distance double precision, mode_used text, complete boolean)
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    -- In units of what a match costs that is compared exactly, some 1.6 microseconds; measured. A candidate of a walk
    -- through a graph; a row of a list of IVFFlat, and a candidate from it.
    candidate_cost constant double precision := 7;
    list_row_cost constant double precision := 0.45;
    list_candidate_cost constant double precision := 2.5;
    -- Matches among the first candidates, were they spread evenly: then 98 of 100 queries meet one (1 - exp(-4)).
    expected_near constant integer := 4;
    -- Matches from which on comparing with them takes several times as long as a short walk.
    worth_a_look constant integer := 5000;
    -- So many times as frequent near the query as everywhere matches are by chance for one query in 100,000.
    dense constant integer := 4;
    build cbir.index_build;
    spec cbir.encoder;
    kind text;
    -- True of a filter that has at least one field.
    filtered constant boolean := (filter IS NULL) IS FALSE;
    restricted constant boolean := cbir_internal.rows_are_restricted();
    use_index boolean;
    images double precision;
    matches double precision;
    share double precision := 1;
    walk_cost double precision;
    few bigint;
    -- Ids of the images that pass the filter, where they are few.
    passing bigint [];
    left_out bigint [] := '{}';
    walk record;
    walked record;
    -- Candidates of a short walk that says whether matches lie near the query; how many of them are matches.
    near integer;
    met_near integer;
    -- Shares of matches to walk for, one after the other until a walk meets enough.
    shares double precision [] := '{}';
    existing integer;
    label_ids bigint [];
    ids bigint [];
    gaps double precision [];
BEGIN
    SELECT e.* INTO spec FROM cbir.encoder AS e WHERE e.name = nearest_image.encoder;
    IF NOT FOUND THEN
        -- It says what there is.
        PERFORM cbir_internal.embedding_table(encoder);
    END IF;
    k := cbir_internal.checked_count('k', k);
    IF mode IS NULL OR mode NOT IN ('auto', 'exact', 'approximate') THEN
        RAISE EXCEPTION 'there is no search mode "%"', mode
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Modes: auto, exact, approximate.';
    END IF;
    IF query IS NULL THEN
        RAISE EXCEPTION 'the query vector is NULL' USING
            ERRCODE = 'invalid_parameter_value',
            HINT = 'To ask by an image of the database: cbir.similar_images(encoder, image_id => 42).';
    END IF;
    IF vector_dims(query) <> spec.dim OR vector_norm(query) = 0 THEN
        -- It says what is wrong.
        PERFORM cbir_internal.query_vector(encoder, NULL, query);
    END IF;
    -- Only its direction counts; very short or long ones overflow half precision and pgvector's sums.
    query := l2_normalize(query);
    kind := CASE spec.precision WHEN 'half' THEN 'halfvec' ELSE 'vector' END;
    IF mode <> 'exact' THEN
        SELECT b.* INTO build
        FROM cbir.index_build AS b
        INNER JOIN pg_index AS x ON x.indexrelid = to_regclass(format('cbir.%I', b.index_name))
        WHERE b.encoder_id = spec.encoder_id AND b.dropped_at IS NULL AND x.indisvalid
        ORDER BY b.index_build_id DESC LIMIT 1;
    END IF;
    IF mode = 'approximate' AND build.index_build_id IS NULL AND NOT restricted THEN
        RAISE EXCEPTION 'encoder "%" has no vector index', encoder
            USING ERRCODE = 'undefined_object', HINT = format('Run: cbirdb index build -e %s', encoder);
    END IF;

    use_index := mode <> 'exact' AND build.index_build_id IS NOT NULL AND NOT restricted
    AND cbir_internal.rival_index(to_regclass(format('cbir.%I', build.index_name))) IS NULL;
    IF num_nonnulls(without_image, without_patient, without_study) > 0 THEN
        left_out := ARRAY(
            SELECT i.image_id
            FROM cbir.image AS i
            WHERE i.image_id = without_image OR i.patient_id = without_patient OR i.study_id = without_study
        );
    END IF;
    IF filtered THEN
        SELECT greatest(c.reltuples, 1) INTO images FROM pg_class AS c WHERE c.oid = 'cbir.image'::regclass;
        matches := cbir_internal.estimated_matches(filter);
        label_ids := cbir_internal.label_and_below(filter.label);
        share := least(matches / greatest(build.rows_indexed, 1), 0.9999);
    END IF;
    WHILE use_index AND filtered AND mode = 'auto' LOOP
        walk := cbir_internal.index_walk(
            build.method, build.parameters, build.search_settings, build.rows_indexed, spec.dim, k, share
        );
        walk_cost := walk.kept / share * CASE build.method WHEN 'ivfflat' THEN list_candidate_cost ELSE candidate_cost END;
        IF build.method = 'ivfflat' THEN
            walk_cost := walk_cost + list_row_cost * build.rows_indexed
            * (jsonb_object(walk.settings) ->> 'ivfflat.probes')::integer / (build.parameters ->> 'lists')::integer;
        END IF;
        -- The more match, the less a walk costs, and the more a scan: up to here the scan costs no more.
        few := ceil(sqrt(matches * walk_cost));
        -- Where comparing exactly would take very long, the walk that it might save does not matter.
        IF near IS NULL AND matches > least(few, worth_a_look) AND matches <= 8 * few THEN
            near := ceil(expected_near / share);
            walked := cbir_internal.walked_images(
                spec, query, 1, filter, label_ids, left_out, walk.nearest_first, near + cardinality(left_out), near,
                walk.settings || ARRAY[
                    'hnsw.ef_search', least(greatest(near + cardinality(left_out), 10), 1000)::text,
                    'ivfflat.probes', '1'
                ]
            );
            met_near := walked.met;
            IF met_near >= dense * share * near THEN
                -- Half, as they may get rarer with the distance.
                shares := ARRAY[0.5 * met_near / near];
            END IF;
        END IF;
        EXIT WHEN matches > few OR shares <> '{}';
        passing := cbir_internal.few_matching_images(filter, 4 * few);
        use_index := passing IS NULL;
        -- Where there are more, the estimate was far too low.
        matches := 4 * few;
        share := least(matches / greatest(build.rows_indexed, 1), 0.9999);
    END LOOP;

    IF use_index THEN
        IF few IS NULL OR (matches > few AND met_near IS DISTINCT FROM 0) THEN
            shares := shares || share;
        END IF;
        use_index := FALSE;
        FOREACH share IN ARRAY shares LOOP
            walk := cbir_internal.index_walk(
                build.method, build.parameters, build.search_settings, build.rows_indexed, spec.dim,
                k + CASE WHEN filtered THEN 0 ELSE cardinality(left_out) END, share
            );
            walked := cbir_internal.walked_images(
                spec, query, k, filter, label_ids, left_out, walk.nearest_first,
                -- What is left out lies near the query.
                walk.candidates + CASE WHEN filtered THEN cardinality(left_out) ELSE 0 END, walk.kept, walk.settings
            );
            -- Matches that are rarer here than everywhere may as well lie beyond where the walk ended.
            use_index := NOT filtered OR walked.met = walk.kept;
            EXIT WHEN use_index;
        END LOOP;
        ids := walked.ids;
        gaps := walked.gaps;
    END IF;
    IF use_index AND NOT filtered AND coalesce(cardinality(ids), 0) < k THEN
        EXECUTE format(
            'SELECT count(*) FROM (SELECT FROM cbir.%I AS e WHERE e.image_id <> ALL($1) LIMIT $2) AS bounded', spec.table_name
        )
            INTO existing
            USING left_out, k;
        use_index := coalesce(cardinality(ids), 0) = existing;
    END IF;

    IF NOT use_index THEN
        IF filtered AND passing IS NULL AND matches <= images / 4 THEN
            passing := cbir_internal.few_matching_images(filter, ceil(images / 4)::bigint);
        END IF;
        EXECUTE format(
            'SELECT array_agg(image_id ORDER BY distance, image_id), array_agg(distance ORDER BY distance, image_id)
            FROM (
                SELECT e.image_id, (e.embedding <=> $1::%2$s) + 0 AS distance
                FROM cbir.%1$I AS e
                WHERE %3$s AND e.image_id <> ALL($4)
                ORDER BY distance, e.image_id
                LIMIT $2
            ) AS nearest',
            spec.table_name, kind,
            CASE
                -- A sub-query's result is looked up by key; the planner would look at a long list item by item.
                WHEN passing IS NOT NULL THEN 'e.image_id = ANY((SELECT $5)::bigint [])'
                WHEN filtered OR restricted THEN 'e.image_id IN (SELECT m.image_id FROM cbir_internal.matching_image($3) AS m)'
                ELSE 'TRUE'
            END
        )
            INTO ids, gaps
            USING query, k, filter, left_out, passing;
    END IF;

    RETURN QUERY
    SELECT a.ordinality::integer, a.id, a.gap, CASE WHEN use_index THEN 'approximate' ELSE 'exact' END, TRUE
    FROM unnest(ids, gaps) WITH ORDINALITY AS a (id, gap, ordinality)
    ORDER BY a.ordinality;
END
$$;

COMMENT ON FUNCTION cbir_internal.nearest_image(
    text, vector, integer, bigint, bigint, bigint, cbir.image_filter, text
) IS
'The k nearest images to a vector by cosine distance: rank, image, distance, how it was answered, and whether all'
' rows that exist up to k are there.';
