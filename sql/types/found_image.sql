-- Title: An image that was looked up
-- Description: Describes one row that cbir.find_image returns. It is a type because the result columns of a function
--   may not have the names of its arguments.
CREATE TYPE cbir.found_image AS (
    image_id bigint,
    dataset text,
    root text,
    source text,
    frame integer,
    split text,
    modality text,
    anatomic_region text,
    labels text [],
    sop_uid text,
    series_uid text,
    study_uid text,
    study_date date,
    patient text,
    replaced_by bigint
);

COMMENT ON TYPE cbir.found_image IS
'Describes an image as cbir.find_image returns it: dataset and its folder, file, positive labels, UIDs, patient'
' pseudonym, number of its frame from 1, and the image that is searched in its place (NULL: it is searched itself).';
