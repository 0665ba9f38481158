-- Title: An image as loading reads and writes it
-- Description: Holds one frame with its patient, study and labels. stored_images returns it; store_images takes it. The
--   fields that come from reading the file (hash, size, damage) are NULL where the file has not been read.
CREATE TYPE cbir.image_record AS (
    image_id bigint,
    source text,
    split text,
    modality text,
    anatomic_region text,
    view text,
    sha256 bytea,
    width integer,
    height integer,
    file_bytes bigint,
    file_modified_ns bigint,
    damage text,
    pseudonym text,
    sex text,
    study_uid text,
    study_date date,
    age_years smallint,
    labels jsonb
);

COMMENT ON TYPE cbir.image_record IS
'Holds an image with its file, patient, study and labels (an object: label and value), as loading reads and writes'
' it.';
