-- Title: Nearest images to a vector, exactly or through the index, and never fewer than there are
-- Description: The search that every other search function stands on.
--   exact        compares with every image that passes the filters.
--   approximate  walks the encoder's vector index, with the search settings recorded when it was built. pgvector
--                filters after the walk and may come back short; the walk goes on until enough were found, and
--                when it still falls short although more exist, the answer is computed exactly instead.
--   auto         approximate when there is an index, but exact when the filters leave few images.
--   The nearest rows are found in a step of their own and joined afterwards: a join or a second sort key
--   beside the distance would make the planner leave the index. "+ 0" keeps an exact search off it.
-- Inputs: an encoder, a vector of its dimension, k, what to leave out (an image, a patient's, a study's), a filter
--   (see cbir.image_filter), a mode.
CREATE FUNCTION cbir.nearest_image(
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
    -- Up to here comparing with every match is faster than, or as fast as, filtering an index walk.
    few constant integer := 20000;
    largest_k constant integer := 10000;
    largest_ef_search constant integer := 1000;
    tab text := cbir.embedding_table(encoder);
    build cbir.index_build;
    spec cbir.encoder;
    -- True of a filter that has at least one field.
    filtered constant boolean := (filter IS NULL) IS FALSE;
    filters constant text := 'SELECT m.image_id FROM cbir.matching_image($4) AS m';
    matches text;
    use_index boolean;
    left_out integer;
    wanted integer;
    existing integer;
    settings_before text[];
    ids bigint[];
    gaps double precision[];
BEGIN
    IF k IS NULL OR k < 1 OR k > largest_k THEN
        RAISE EXCEPTION 'k must lie between 1 and %, not %', largest_k, coalesce(k::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF mode IS NULL OR mode NOT IN ('auto', 'exact', 'approximate') THEN
        RAISE EXCEPTION 'there is no search mode "%"', mode
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Modes: auto, exact, approximate.';
    END IF;
    SELECT e.* INTO spec FROM cbir.encoder AS e WHERE e.name = nearest_image.encoder;
    IF query IS NULL OR vector_dims(query) <> spec.dim OR vector_norm(query) = 0 THEN
        RAISE EXCEPTION 'the query vector of encoder "%" must have % dimensions and a length above zero', encoder, spec.dim
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Only its direction counts; very short or long ones overflow half precision and pgvector's sums.
    query := l2_normalize(query);
    SELECT b.* INTO build
    FROM cbir.index_build AS b
    INNER JOIN pg_class AS c ON c.relname = b.index_name AND c.relnamespace = 'cbir'::regnamespace
    INNER JOIN pg_index AS x ON x.indexrelid = c.oid AND x.indisvalid
    WHERE b.encoder_id = spec.encoder_id AND b.dropped_at IS NULL
    ORDER BY b.index_build_id DESC LIMIT 1;
    IF mode = 'approximate' AND build.index_build_id IS NULL THEN
        RAISE EXCEPTION 'encoder "%" has no vector index', encoder
            USING ERRCODE = 'undefined_object', HINT = format('Run: cbirdb index build -e %s', encoder);
    END IF;

    use_index := mode <> 'exact' AND build.index_build_id IS NOT NULL;
    IF use_index AND filtered AND mode = 'auto' THEN
        EXECUTE 'SELECT count(*) > $3 FROM (' || filters || ' LIMIT $3 + 1) AS bounded'
            INTO use_index
            USING query, k, few, filter;
    END IF;

    -- A sub-query under IS TRUE stays a filter of the scan: as a join it would lead the planner off the index.
    matches := CASE WHEN filtered THEN format('(e.image_id IN (%s)) IS TRUE', filters) ELSE 'TRUE' END;

    IF use_index THEN
        SELECT count(*) INTO left_out
        FROM cbir.image AS i
        WHERE i.image_id = without_image OR i.patient_id = without_patient OR i.study_id = without_study;
        wanted := k + left_out;
        settings_before := ARRAY[
            current_setting('hnsw.ef_search'), current_setting('hnsw.iterative_scan'), current_setting('enable_seqscan')
        ];
        PERFORM
            set_config('hnsw.ef_search', least(greatest(
                (build.search_settings ->> 'hnsw.ef_search')::integer, wanted), largest_ef_search)::text, true),
            set_config('hnsw.iterative_scan', 'strict_order', true),
            set_config('enable_seqscan', 'off', true);
        EXECUTE format(
            'WITH nearest AS MATERIALIZED (
                SELECT e.image_id, e.embedding <=> $1::%2$s AS distance
                FROM cbir.%1$I AS e
                WHERE %3$s
                ORDER BY e.embedding <=> $1::%2$s
                LIMIT $5
            ),
            kept AS (
                SELECT n.image_id, n.distance
                FROM nearest AS n
                INNER JOIN cbir.image AS i ON i.image_id = n.image_id
                WHERE n.image_id IS DISTINCT FROM $6 AND (i.patient_id = $7) IS NOT TRUE
                    AND (i.study_id = $8) IS NOT TRUE
                ORDER BY n.distance, n.image_id
                LIMIT $2
            )
            SELECT array_agg(image_id ORDER BY distance, image_id), array_agg(distance ORDER BY distance, image_id)
            FROM kept',
            tab, CASE spec.precision WHEN 'half' THEN 'halfvec' ELSE 'vector' END, matches
        )
            INTO ids, gaps
            USING query, k, few, filter, wanted, without_image, without_patient, without_study;
        PERFORM
            set_config('hnsw.ef_search', settings_before[1], true),
            set_config('hnsw.iterative_scan', settings_before[2], true),
            set_config('enable_seqscan', settings_before[3], true);
        IF coalesce(cardinality(ids), 0) < k THEN
            EXECUTE format(
                'SELECT count(*) FROM (
                    SELECT FROM cbir.%1$I AS e
                    INNER JOIN cbir.image AS i ON i.image_id = e.image_id
                    WHERE %2$s AND e.image_id IS DISTINCT FROM $6 AND (i.patient_id = $7) IS NOT TRUE
                    AND (i.study_id = $8) IS NOT TRUE
                    LIMIT $2
                ) AS bounded', tab, matches
            )
                INTO existing
                USING query, k, few, filter, wanted, without_image, without_patient, without_study;
            use_index := coalesce(cardinality(ids), 0) = existing;
        END IF;
    END IF;

    IF NOT use_index THEN
        EXECUTE format(
            'SELECT array_agg(image_id ORDER BY distance, image_id), array_agg(distance ORDER BY distance, image_id)
            FROM (
                SELECT e.image_id, (e.embedding <=> $1::%2$s) + 0 AS distance
                FROM cbir.%1$I AS e
                INNER JOIN cbir.image AS i ON i.image_id = e.image_id
                WHERE %3$s AND e.image_id IS DISTINCT FROM $6 AND (i.patient_id = $7) IS NOT TRUE
                    AND (i.study_id = $8) IS NOT TRUE
                ORDER BY distance, e.image_id
                LIMIT $2
            ) AS nearest',
            tab, CASE spec.precision WHEN 'half' THEN 'halfvec' ELSE 'vector' END,
            CASE WHEN filtered THEN format('e.image_id IN (%s)', filters) ELSE 'TRUE' END
        )
            INTO ids, gaps
            USING query, k, few, filter, wanted, without_image, without_patient, without_study;
    END IF;

    RETURN QUERY
    SELECT a.ordinality::integer, a.id, a.gap, CASE WHEN use_index THEN 'approximate' ELSE 'exact' END, TRUE
    FROM unnest(ids, gaps) WITH ORDINALITY AS a (id, gap, ordinality)
    ORDER BY a.ordinality;
END
$$;

COMMENT ON FUNCTION cbir.nearest_image(
    text, vector, integer, bigint, bigint, bigint, cbir.image_filter, text
) IS
'The k nearest images to a vector by cosine distance: rank, image, distance, how it was answered, and whether all'
' rows that exist up to k are there.';
