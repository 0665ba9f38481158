-- Title: A study and how far it is from a set of images
-- Description: What study_distance returns, before it is described to a person.
CREATE TYPE cbir.study_match AS (
    study_id bigint,
    distance double precision,
    query_image_id bigint,
    image_id bigint,
    pair_distance double precision,
    images bigint
);

COMMENT ON TYPE cbir.study_match IS
'A study: mean cosine distance of the m best pairs, the best pair and its distance, how many images of it took part.';
