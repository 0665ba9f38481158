-- Title: An image as loading reads and writes it
-- Description: Holds one frame with its patient, study and labels. stored_images returns it; store_images takes it. The
--   fields that come from reading the file (hashes, damage) are NULL where the file has not been read. frame counts
--   from 0, as in the table; NULL stands for 0.
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
    labels jsonb,
    frame integer,
    sop_uid text,
    series_uid text,
    accession text,
    pixel_sha256 bytea,
    sop_class_uid text,
    transfer_syntax_uid text,
    modality_code text,
    body_part text,
    laterality text,
    image_type text [],
    presentation_intent text,
    manufacturer text,
    manufacturer_model text,
    photometric_interpretation text,
    burned_in_annotation text,
    pixel_spacing double precision [],
    slice_position double precision [],
    slice_orientation double precision []
);

COMMENT ON TYPE cbir.image_record IS
'Holds an image with its file, patient, study, series, labels (an object: label and value) and what DICOM says of it,'
' as loading reads and writes it.';
