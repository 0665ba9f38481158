-- Title: A row of an answer to "where have we seen this before?"
-- Description: What cbir.similar_images returns. A type of its own, because a function's result columns may not
--   have the names of its arguments.
CREATE TYPE cbir.similar_image AS (
    rank integer,
    image_id bigint,
    distance double precision,
    similarity double precision,
    labels text [],
    dataset text,
    modality text,
    anatomic_region text,
    study_uid text,
    study_date date,
    sop_uid text,
    source text,
    mode text,
    complete boolean
);

COMMENT ON TYPE cbir.similar_image IS
'One retrieved image: rank from 1, cosine distance (0 is identical direction) and similarity (1 - distance), what is'
' known about it, mode (exact or approximate), and whether all rows that exist up to k were returned.';
