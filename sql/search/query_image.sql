-- Title: Find the image that a search starts from
-- Description: Returns the id of the query image. Exactly one of an image's id, UIDs and a vector must be given. It
--   refuses UIDs that several images carry (frames of one file, one file in two datasets, a whole series), and lists
--   their ids: the choice changes the answer and the patient to leave out. Neither message nor hint quotes a UID,
--   because servers log errors.
-- Inputs: an image's id, a SOP instance UID, a vector; series and study instance UIDs; the number of a frame, from 1.
CREATE FUNCTION cbir_internal.query_image(
    image_id bigint,
    sop_uid text,
    query vector,
    series_uid text DEFAULT NULL,
    study_uid text DEFAULT NULL,
    frame integer DEFAULT NULL
)
RETURNS bigint
LANGUAGE plpgsql
STABLE
SET search_path FROM CURRENT
AS $$
DECLARE
    by_uid constant boolean := num_nonnulls(sop_uid, series_uid, study_uid) > 0;
    given constant integer := num_nonnulls(image_id, query, nullif(by_uid, FALSE));
    found bigint[];
BEGIN
    IF given <> 1 THEN
        RAISE EXCEPTION 'give exactly one of image_id, a UID and query, not %',
            CASE given WHEN 0 THEN 'none' ELSE 'several' END
            USING ERRCODE = 'invalid_parameter_value',
            HINT = 'For example: image_id => 42, sop_uid => ''1.2.3'', query => ''[0.1,0.2]''; NULL counts as not given.';
    ELSIF frame IS NOT NULL AND NOT by_uid THEN
        RAISE EXCEPTION 'give a frame only with a UID' USING
            ERRCODE = 'invalid_parameter_value', HINT = 'For example: sop_uid => ''1.2.3'', frame => 3; frames count from 1.';
    ELSIF frame < 1 THEN
        RAISE EXCEPTION 'there is no frame %', frame USING
            ERRCODE = 'invalid_parameter_value', HINT = 'Frames count from 1.';
    ELSIF query IS NOT NULL THEN
        RETURN NULL;
    ELSIF by_uid THEN
        found := ARRAY(
            SELECT i.image_id
            FROM cbir.image AS i
            WHERE
                (query_image.sop_uid IS NULL OR i.sop_uid = query_image.sop_uid)
                AND (query_image.series_uid IS NULL OR i.series_id IN (
                    SELECT s.series_id FROM cbir.series AS s WHERE s.series_uid = query_image.series_uid
                ))
                AND (query_image.study_uid IS NULL OR i.study_id IN (
                    SELECT s.study_id FROM cbir.study AS s WHERE s.study_uid = query_image.study_uid
                ))
                AND (query_image.frame IS NULL OR i.frame = query_image.frame - 1)
                AND i.replaced_by IS NULL
            ORDER BY 1
        );
        IF cardinality(found) = 0 THEN
            RAISE EXCEPTION 'no image has %', CASE
                WHEN num_nonnulls(sop_uid, series_uid, study_uid, frame) > 1 THEN 'all of these: UIDs and frame'
                ELSE 'this UID'
            END
                USING ERRCODE = 'no_data_found',
                HINT = format(
                    '%s of %s images have a SOP instance UID; it is the column sop_uid of cbir.image_overview.',
                    (SELECT count(i.sop_uid) FROM cbir.image AS i), (SELECT count(*) FROM cbir.image)
                );
        ELSIF cardinality(found) > 1 THEN
            RAISE EXCEPTION '% images have this UID', cardinality(found) USING
                ERRCODE = 'cardinality_violation',
                HINT = format('Give image_id => one of %s.', cbir_internal.listed(found::text[]));
        END IF;
        RETURN found[1];
    ELSIF NOT EXISTS (SELECT FROM cbir.image AS i WHERE i.image_id = query_image.image_id) THEN
        RAISE EXCEPTION 'there is no image %', image_id USING
            ERRCODE = 'no_data_found',
            HINT = (
                SELECT
                    CASE count(*)
                        WHEN 0 THEN 'There are no images; '
                        ELSE format('There are %s images, with ids from %s to %s; ', count(*), min(i.image_id), max(i.image_id))
                    END || 'cbir.image_overview lists them.'
                FROM cbir.image AS i
            );
    END IF;
    RETURN image_id;
END
$$;

COMMENT ON FUNCTION cbir_internal.query_image(bigint, text, vector, text, text, integer) IS
'Returns the id of the image that a search starts from; NULL if it starts from a vector.';
