-- Title: A study that a search found
-- Description: Describes one row that cbir.similar_studies returns.
CREATE TYPE cbir.similar_study AS (
    rank integer,
    study_id bigint,
    study_uid text,
    similarity double precision,
    query_image_id bigint,
    image_id bigint,
    pair_similarity double precision,
    images bigint,
    labels text [],
    study_date date,
    dataset text,
    mode text,
    complete boolean
);

COMMENT ON TYPE cbir.similar_study IS
'Describes one retrieved study: rank from 1, similarity (mean cosine similarity of the best m pairs), the best pair'
' (an image of the query study, one of this study, their similarity), the number of its images that took part,'
' positive labels of all its images, date, dataset, mode (exact or approximate), and whether all studies that exist up'
' to k were returned.';
