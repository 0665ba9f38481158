-- Title: Find the image that a search starts from
-- Description: Returns the id of the query image. Exactly one of an image's id, a SOP instance UID and a vector must be
--   given. It refuses a UID that several images carry (frames of one file, or one file in two datasets), and lists
--   their ids: the choice changes the answer and the patient to leave out. Neither message nor hint quotes a UID,
--   because servers log errors.
-- Inputs: an image's id, a SOP instance UID, a vector.
CREATE FUNCTION cbir_internal.query_image(image_id bigint, sop_uid text, query vector)
RETURNS bigint
LANGUAGE plpgsql
STABLE
SET search_path FROM CURRENT
AS $$
DECLARE
    given constant integer := num_nonnulls(image_id, sop_uid, query);
    found bigint[];
BEGIN
    IF given <> 1 THEN
        RAISE EXCEPTION 'give exactly one of image_id, sop_uid and query, not %', CASE given WHEN 0 THEN 'none' ELSE 'several' END
            USING ERRCODE = 'invalid_parameter_value',
            HINT = 'For example: image_id => 42, sop_uid => ''1.2.3'', query => ''[0.1,0.2]''; NULL counts as not given.';
    ELSIF query IS NOT NULL THEN
        RETURN NULL;
    ELSIF sop_uid IS NOT NULL THEN
        found := ARRAY(SELECT i.image_id FROM cbir.image AS i WHERE i.sop_uid = query_image.sop_uid ORDER BY 1);
        IF cardinality(found) = 0 THEN
            RAISE EXCEPTION 'there is no image with this SOP instance UID' USING
                ERRCODE = 'no_data_found',
                HINT = format(
                    '%s of %s images have one; it is the column sop_uid of cbir.image_overview.',
                    (SELECT count(i.sop_uid) FROM cbir.image AS i), (SELECT count(*) FROM cbir.image)
                );
        ELSIF cardinality(found) > 1 THEN
            RAISE EXCEPTION '% images have this SOP instance UID', cardinality(found) USING
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

COMMENT ON FUNCTION cbir_internal.query_image(bigint, text, vector) IS
'Returns the id of the image that a search starts from; NULL if it starts from a vector.';
