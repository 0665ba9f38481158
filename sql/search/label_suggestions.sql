-- Title: Suggest labels for an image
-- Description: Returns the labels of the k nearest images, each with its share of the votes ("What might this be?").
--   Beside it stands the precision of this encoder at this k on queries of that class, from its latest final
--   evaluation. If no evaluation is final, it comes from the latest one, and the remark says so. A class whose
--   neighbours are seldom right deserves doubt, however many vote for it. The run tells on which images the precision
--   was measured.
--     SELECT * FROM cbir.label_suggestions('tiny-image', image_id => 42, k => 10);
--   Neighbours without a label vote for none. Not a diagnosis.
-- Inputs: the same as cbir.similar_images.
CREATE FUNCTION cbir.label_suggestions(
    encoder text,
    image_id bigint DEFAULT NULL,
    k bigint DEFAULT 10,
    sop_uid text DEFAULT NULL,
    query vector DEFAULT NULL,
    dataset text DEFAULT NULL,
    modality text DEFAULT NULL,
    anatomic_region text DEFAULT NULL,
    label text DEFAULT NULL,
    split text DEFAULT NULL,
    study_from date DEFAULT NULL,
    study_to date DEFAULT NULL,
    image_ids bigint[] DEFAULT NULL,
    same_patient boolean DEFAULT FALSE,
    mode text DEFAULT 'auto',
    without_image bigint DEFAULT NULL,
    without_patient bigint DEFAULT NULL,
    laterality text DEFAULT NULL,
    view text DEFAULT NULL,
    image_type text DEFAULT NULL,
    manufacturer text DEFAULT NULL,
    body_part text DEFAULT NULL,
    series_uid text DEFAULT NULL,
    study_uid text DEFAULT NULL,
    frame integer DEFAULT NULL
)
RETURNS SETOF cbir.label_suggestion
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
    number constant integer := cbir_internal.checked_count('k', k);
    tab constant text := cbir_internal.embedding_table(encoder);
    query_image_id constant bigint := cbir_internal.query_image(
        image_id, sop_uid, query, series_uid, study_uid, frame
    );
    filter constant cbir.image_filter := ROW(
        dataset, modality, anatomic_region, label, split, study_from, study_to, image_ids, laterality, view, image_type,
        manufacturer, body_part
    );
    ids bigint[];
    distances double precision[];
    used text;
    whole boolean;
    run cbir.search_run;
BEGIN
    SELECT
        array_agg(n.image_id ORDER BY n.rank), array_agg(n.distance ORDER BY n.rank), max(n.mode_used),
        bool_and(n.complete)
    INTO ids, distances, used, whole
    FROM cbir_internal.nearest_to_query(
        encoder, query_image_id, query, number, filter, same_patient, mode, without_image, without_patient
    ) AS n;
    PERFORM cbir_internal.record_search(
        'label_suggestions', encoder, query_image_id, number, filter, coalesce(used, mode), coalesce(ids, '{}'),
        same_patient, without_image, without_patient
    );
    SELECT r.* INTO run
    FROM cbir.search_run AS r
    INNER JOIN cbir.encoder AS e ON e.encoder_id = r.encoder_id
    WHERE e.name = label_suggestions.encoder AND r.finished_at IS NOT NULL
    -- Prefers the latest final run. If there is none, takes the latest, and the remark says so.
    ORDER BY r.not_final IS NULL DESC, r.run_id DESC LIMIT 1;
    RETURN QUERY
    SELECT
        (row_number() OVER (ORDER BY v.votes DESC, v.nearest_distance, v.name))::integer,
        v.name, v.votes, cardinality(ids), v.votes::double precision / cardinality(ids),
        v.nearest_image_id, v.nearest_distance,
        p.micro_precision, p.queries, run.run_id,
        CASE
            WHEN p.micro_precision IS NOT NULL THEN nullif(concat_ws(
                '; ',
                'run ' || run.run_id || ' is not final: ' || run.not_final,
                CASE WHEN run.erased_images > 0 THEN format('%s of its images were erased since', run.erased_images) END
            ), '')
            WHEN run.run_id IS NULL THEN format('no finished evaluation; run: cbirdb evaluate -e %s', label_suggestions.encoder)
            WHEN run.k < number THEN format('run %s kept %s neighbours', run.run_id, run.k)
            ELSE format('run %s has no query of this class, or no indexed image', run.run_id)
        END,
        used, whole
    FROM (
        SELECT
            l.name, count(*)::integer AS votes, min(n.distance) AS nearest_distance,
            (array_agg(n.image_id ORDER BY n.place))[1] AS nearest_image_id
        FROM unnest(ids, distances) WITH ORDINALITY AS n (image_id, distance, place)
        INNER JOIN cbir.image_label AS il ON il.image_id = n.image_id AND il.value = 1
        INNER JOIN cbir.label AS l ON l.label_id = il.label_id
        GROUP BY l.name
    ) AS v
    LEFT JOIN cbir.precision_by_class AS p ON p.run_id = run.run_id AND p.n = number AND p.group_name = v.name
    ORDER BY 1;
END
$$;

COMMENT ON FUNCTION cbir.label_suggestions(
    text, bigint, bigint, text, vector, text, text, text, text, text, date, date, bigint[], boolean, text, bigint,
    bigint, text, text, text, text, text, text, text, integer
) IS
'Returns the labels of the k nearest images with their share of the votes, and the precision of this encoder on each'
' class at this k in its latest finished run. Not a diagnosis.';
