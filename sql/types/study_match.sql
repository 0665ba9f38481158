-- Title: A study and its distance from a set of images
-- Description: Describes one row that study_distance returns, before names, labels and dates are added.
CREATE TYPE cbir.study_match AS (
    study_id bigint,
    distance double precision,
    query_image_id bigint,
    image_id bigint,
    pair_distance double precision,
    images bigint
);

COMMENT ON TYPE cbir.study_match IS
'Describes a study: mean cosine distance of the m best pairs, the best pair and its distance, and the number of its'
' images that took part.';
