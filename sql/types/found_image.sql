-- Title: An image that was looked up
-- Description: What cbir.find_image returns. A type of its own, because a function's result columns may not have the
--   names of its arguments.
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
    patient text
);

COMMENT ON TYPE cbir.found_image IS
'An image as cbir.find_image tells of it: dataset and its folder, file, positive labels, UIDs, patient pseudonym.';
