-- Title: Find similar images
-- Description: Returns the images most similar to one in the database, or to a given vector, nearest first, with
--   labels, dataset, study and file ("Where have we seen this before?"). It leaves out the query image itself and,
--   unless asked for, other images of its patient.
--     SELECT * FROM cbir.similar_images('tiny-image', image_id => 42, k => 10, modality => 'XR');
--     SELECT * FROM cbir.similar_images('tiny-image', sop_uid => '1.2.840.1', study_from => '2020-01-01');
--   It is one function and not an overload per kind of query: named arguments tell which is meant, whatever type a
--   driver sends.
--     SELECT * FROM cbir.similar_images('tiny-image', sop_uid => '1.2.840.2', frame => 3, image_type => 'ORIGINAL');
-- Inputs: an encoder; an image's id, or its UIDs (SOP, series or study) with the number of its frame (from 1), or a
--   vector of the encoder's dimension; k; filters (a NULL one filters nothing; a label matches all labels below it; an
--   image type is one of its values); same_patient; mode: auto, exact or approximate (see nearest_image); for a vector,
--   an image and a patient to leave out.
CREATE FUNCTION cbir.similar_images(
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
RETURNS SETOF cbir.similar_image
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
BEGIN
    -- A separate step: joined to an empty table, the search would not run, nor check its arguments.
    SELECT
        array_agg(n.image_id ORDER BY n.rank), array_agg(n.distance ORDER BY n.rank), max(n.mode_used),
        bool_and(n.complete)
    INTO ids, distances, used, whole
    FROM cbir_internal.nearest_to_query(
        encoder, query_image_id, query, number, filter, same_patient, mode, without_image, without_patient
    ) AS n;
    PERFORM cbir_internal.record_search(
        'similar_images', encoder, query_image_id, number, filter, coalesce(used, mode), coalesce(ids, '{}'),
        same_patient, without_image, without_patient
    );
    RETURN QUERY
    -- The same labels as in cbir.image_overview, but for all images at once; the view would scan all labels per image.
    WITH named AS (
        SELECT il.image_id, array_agg(l.name ORDER BY l.name) AS labels
        FROM cbir.image_label AS il
        INNER JOIN cbir.label AS l ON l.label_id = il.label_id
        WHERE il.image_id = ANY (ids) AND il.value = 1
        GROUP BY il.image_id
    )
    SELECT
        n.place::integer, i.image_id, n.distance, 1 - n.distance, coalesce(named.labels, '{}'), d.name, i.modality,
        i.anatomic_region, st.study_uid, st.study_date, i.sop_uid, i.source, used,
        -- FALSE if an image was deleted between the two steps.
        whole AND count(*) OVER () = cardinality(ids)
    FROM unnest(ids, distances) WITH ORDINALITY AS n (image_id, distance, place)
    INNER JOIN cbir.image AS i ON i.image_id = n.image_id
    INNER JOIN cbir.dataset AS d ON d.dataset_id = i.dataset_id
    LEFT JOIN cbir.study AS st ON st.study_id = i.study_id
    LEFT JOIN named ON named.image_id = i.image_id
    ORDER BY n.place;
END
$$;

COMMENT ON FUNCTION cbir.similar_images(
    text, bigint, bigint, text, vector, text, text, text, text, text, date, date, bigint[], boolean, text, bigint,
    bigint, text, text, text, text, text, text, text, integer
) IS
'Returns the k images most similar to an image (image_id or UIDs) or to a vector (query), nearest first, with'
' descriptions; never fewer than exist. Leaves out the image itself, and its patient unless same_patient.';
