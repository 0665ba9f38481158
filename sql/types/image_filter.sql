-- Title: Filter of a search
-- Description: Holds the filter that the search functions take as one argument, so that a new filter changes one place.
--   A NULL field filters nothing. An image must match all fields that are given.
--     SELECT jsonb_populate_record(NULL::cbir.image_filter, '{"modality": "XR", "label": "XR/chest"}');
CREATE TYPE cbir.image_filter AS (
    dataset text,
    modality text,
    anatomic_region text,
    label text,
    split text,
    study_from date,
    study_to date,
    image_ids bigint [],
    laterality text,
    view text,
    image_type text,
    manufacturer text,
    body_part text
);

COMMENT ON TYPE cbir.image_filter IS
'Holds the filters of a search: names of a dataset, modality, anatomic region, label (with all labels below it) and'
' split; first and last study date; a list of image ids; laterality, view, one value of the image type, manufacturer'
' and code of the body part, as DICOM gives them. A NULL field filters nothing.';
