-- Title: Compute exact distances of studies to a set of images
-- Description: Returns the k nearest studies. For each image of the query, the nearest image in a study counts. The
--   study's distance is the mean of the m smallest of these distances. m is the same for every study, so that a study
--   does not win by having many images. The function processes one query image after the other, each with its vector as
--   a parameter, and keeps the m best per study: memory grows with the number of studies and not with the number of
--   pairs. "+ 0" keeps the planner from using the vector index.
-- Inputs: an encoder; ids and vectors of the query's images; m; k; the study and patients to leave out; a filter of the
--   images that may match; the studies to compare with (NULL: all).
CREATE FUNCTION cbir_internal.study_distance(
    encoder text,
    query_ids bigint[],
    query_vectors vector[],
    m integer,
    k integer,
    without_study bigint,
    without_patients bigint[],
    filter cbir.image_filter,
    candidates bigint[] DEFAULT NULL
)
RETURNS SETOF cbir.study_match
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    allowed constant text := format(
        'FROM cbir.%1$I AS e
        INNER JOIN cbir.image AS i ON i.image_id = e.image_id
        INNER JOIN cbir.study AS st ON st.study_id = i.study_id
        WHERE i.study_id <> $2 AND (i.patient_id = ANY ($3)) IS NOT TRUE AND (st.patient_id = ANY ($3)) IS NOT TRUE
            AND %2$s AND %3$s',
        cbir_internal.embedding_table(encoder),
        CASE WHEN filter IS NULL THEN 'TRUE' ELSE 'e.image_id IN (SELECT m.image_id FROM cbir_internal.matching_image($4) AS m)' END,
        CASE WHEN candidates IS NULL THEN 'TRUE' ELSE 'i.study_id = ANY ($5)' END
    );
    gap constant text := format('(e.embedding <=> $1::%s) + 0', (
        SELECT CASE en.precision WHEN 'half' THEN 'halfvec' ELSE 'vector' END
        FROM cbir.encoder AS en WHERE en.name = study_distance.encoder
    ));
    new_studies bigint[];
    new_gaps double precision[];
    kept_studies bigint[];
    kept_queries integer[];
    kept_gaps double precision[];
    nearest integer;
    match cbir.study_match;
BEGIN
    FOR place IN 1 .. cardinality(query_ids) LOOP
        EXECUTE format(
            'SELECT array_agg(s.study_id), array_agg(s.distance)
            FROM (SELECT i.study_id, min(%s) AS distance %s GROUP BY i.study_id) AS s', gap, allowed
        )
            INTO new_studies, new_gaps
            USING query_vectors[place], without_study, without_patients, filter, candidates;
        SELECT array_agg(s.study), array_agg(s.query), array_agg(s.distance) INTO kept_studies, kept_queries, kept_gaps
        FROM (
            SELECT p.*, row_number() OVER (PARTITION BY p.study ORDER BY p.distance, p.query) AS position
            FROM (
                SELECT a.study, a.query, a.distance
                FROM unnest(kept_studies, kept_queries, kept_gaps) AS a (study, query, distance)
                UNION ALL
                SELECT b.study, place, b.distance FROM unnest(new_studies, new_gaps) AS b (study, distance)
            ) AS p
        ) AS s
        WHERE s.position <= m;
    END LOOP;
    FOR match.study_id, match.distance, nearest IN
        SELECT s.study, avg(s.gap ORDER BY s.gap), (array_agg(s.query ORDER BY s.gap, s.query))[1]
        FROM unnest(kept_studies, kept_queries, kept_gaps) AS s (study, query, gap)
        GROUP BY s.study
        ORDER BY 2, 1
        LIMIT k
    LOOP
        EXECUTE format(
            'SELECT (array_agg(s.image_id ORDER BY s.distance, s.image_id))[1], min(s.distance), count(*)
            FROM (SELECT e.image_id, %s AS distance %s AND i.study_id = $6) AS s', gap, allowed
        )
            INTO match.image_id, match.pair_distance, match.images
            USING query_vectors[nearest], without_study, without_patients, filter, candidates, match.study_id;
        match.query_image_id := query_ids[nearest];
        RETURN NEXT match;
    END LOOP;
END
$$;

COMMENT ON FUNCTION cbir_internal.study_distance(
    text, bigint[], vector[], integer, integer, bigint, bigint[], cbir.image_filter, bigint[]
) IS
'Returns the k studies nearest to a set of images: mean distance of the m best pairs, the best pair, and the number'
' of images that took part.';
