-- Title: Find the images nearest to an image or a vector
-- Description: Returns the result of nearest_image for an image or a vector, without the image itself and, unless asked
--   for, without its patient. similar_images and label_suggestions share this step.
-- Inputs: an encoder; an image of the database or a vector (see query_image); k; a filter; TRUE to include the image's
--   patient; a mode; for a vector, an image and a patient to leave out.
CREATE FUNCTION cbir_internal.nearest_to_query(
    encoder text,
    query_image_id bigint,
    query vector,
    k integer,
    filter cbir.image_filter,
    same_patient boolean,
    mode text,
    without_image bigint,
    without_patient bigint
)
RETURNS TABLE (rank integer, image_id bigint, distance double precision, mode_used text, complete boolean)
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
BEGIN
    IF query_image_id IS NOT NULL AND num_nonnulls(without_image, without_patient) > 0 THEN
        RAISE EXCEPTION 'without_image and without_patient work only with a query vector' USING
            ERRCODE = 'invalid_parameter_value',
            HINT = 'A search by image already excludes that image, and its patient unless same_patient => true.';
    ELSIF query_image_id IS NOT NULL THEN
        without_image := query_image_id;
        without_patient := (
            SELECT i.patient_id FROM cbir.image AS i WHERE i.image_id = query_image_id AND same_patient IS NOT TRUE
        );
    END IF;
    RETURN QUERY
    SELECT n.*
    FROM cbir_internal.nearest_image(
        encoder, cbir_internal.query_vector(encoder, query_image_id, query), k,
        without_image => without_image, without_patient => without_patient, filter => filter, mode => mode
    ) AS n;
    IF NOT FOUND THEN
        PERFORM cbir_internal.check_filter(filter);
    END IF;
END
$$;

COMMENT ON FUNCTION cbir_internal.nearest_to_query(
    text, bigint, vector, integer, cbir.image_filter, boolean, text, bigint, bigint
) IS
'Returns the images nearest to an image or a vector; raises an error if there are none because the filter names'
' something that does not exist.';
