-- Title: Similar images
-- Description: "Where have we seen this before?" The images most similar to one in the database, or to a given
--   vector, nearest first, joined to what a person needs. The query image itself and, unless asked for, its
--   patient's other images are left out.
--     SELECT * FROM cbir.similar_images('tiny-image', image_id => 42, k => 10, modality => 'XR');
-- Inputs: an encoder; an image's id, or a vector of the encoder's dimension; k; filters (NULL lets everything
--   pass; a label matches what lies below it); mode: auto, exact or approximate (see cbir.nearest_image).
CREATE FUNCTION cbir.similar_images(
    encoder text,
    query vector,
    k integer DEFAULT 10,
    dataset text DEFAULT NULL,
    modality text DEFAULT NULL,
    anatomic_region text DEFAULT NULL,
    label text DEFAULT NULL,
    split text DEFAULT NULL,
    study_from date DEFAULT NULL,
    study_to date DEFAULT NULL,
    mode text DEFAULT 'auto',
    without_image bigint DEFAULT NULL,
    without_patient bigint DEFAULT NULL
)
RETURNS SETOF cbir.similar_image
LANGUAGE sql
SET search_path FROM CURRENT
AS $$
SELECT
    n.rank, o.image_id, n.distance, 1 - n.distance, o.labels, o.dataset, o.modality, o.anatomic_region,
    o.study_uid, o.study_date, o.sop_uid, o.source, n.mode_used, n.complete
FROM cbir.nearest_image(
    similar_images.encoder, similar_images.query, similar_images.k,
    without_image => similar_images.without_image, without_patient => similar_images.without_patient,
    filter => ROW(
        similar_images.dataset, similar_images.modality, similar_images.anatomic_region, similar_images.label,
        similar_images.split, similar_images.study_from, similar_images.study_to, NULL
    )::cbir.image_filter,
    mode => similar_images.mode
) AS n
INNER JOIN cbir.image_overview AS o ON o.image_id = n.image_id
ORDER BY n.rank
$$;

COMMENT ON FUNCTION cbir.similar_images(
    text, vector, integer, text, text, text, text, text, date, date, text, bigint, bigint
) IS
'The k images most similar to a vector, nearest first, described; never fewer than exist.';

CREATE FUNCTION cbir.similar_images(
    encoder text,
    image_id bigint,
    k integer DEFAULT 10,
    dataset text DEFAULT NULL,
    modality text DEFAULT NULL,
    anatomic_region text DEFAULT NULL,
    label text DEFAULT NULL,
    split text DEFAULT NULL,
    study_from date DEFAULT NULL,
    study_to date DEFAULT NULL,
    same_patient boolean DEFAULT FALSE,
    mode text DEFAULT 'auto'
)
RETURNS SETOF cbir.similar_image
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    query vector;
    patient bigint;
    known boolean;
BEGIN
    EXECUTE format('SELECT e.embedding::vector FROM cbir.%I AS e WHERE e.image_id = $1', cbir.embedding_table(encoder))
        INTO query USING image_id;
    SELECT TRUE, i.patient_id INTO known, patient FROM cbir.image AS i WHERE i.image_id = similar_images.image_id;
    IF known IS NULL THEN
        RAISE EXCEPTION 'there is no image %', coalesce(image_id::text, 'NULL')
            USING ERRCODE = 'no_data_found', HINT = 'cbir.image_overview lists the images.';
    ELSIF query IS NULL THEN
        RAISE EXCEPTION 'image % has no embedding of encoder "%"', image_id, encoder
            USING ERRCODE = 'no_data_found', HINT = format(
                CASE (SELECT e.spec ->> 'family' FROM cbir.encoder AS e WHERE e.name = similar_images.encoder)
                    WHEN 'imported' THEN 'Its embeddings are imported: cbirdb import-embeddings -e %s FILE.h5'
                    ELSE 'Run: cbirdb encode -e %s'
                END, encoder);
    END IF;
    RETURN QUERY
    SELECT s.*
    FROM cbir.similar_images(
        encoder, query => query, k => k, dataset => dataset, modality => modality, anatomic_region => anatomic_region,
        label => label, split => split, study_from => study_from, study_to => study_to, mode => mode,
        without_image => image_id, without_patient => CASE WHEN same_patient THEN NULL ELSE patient END
    ) AS s;
END
$$;

COMMENT ON FUNCTION cbir.similar_images(
    text, bigint, integer, text, text, text, text, text, date, date, boolean, text
) IS
'The k images most similar to an image, nearest first, described; never fewer than exist. The image itself is left out,'
' and so is its patient unless same_patient.';
