-- Title: Which images a search may return
-- Description: What the search functions take as one argument, so that adding a filter changes one place. A field that
--   is NULL lets everything pass; all that are given must hold.
--     SELECT ROW(NULL, 'XR', NULL, 'XR/chest', NULL, NULL, NULL, NULL)::cbir.image_filter;
CREATE TYPE cbir.image_filter AS (
    dataset text,
    modality text,
    anatomic_region text,
    label text,
    split text,
    study_from date,
    study_to date,
    image_ids bigint []
);

COMMENT ON TYPE cbir.image_filter IS
'Filters of a search: names of a dataset, modality, anatomic region, label (with what lies below it) and split; first'
' and last study date; a list of image ids. NULL lets everything pass.';
