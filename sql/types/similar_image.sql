-- Title: An image that a search found
-- Description: Describes one row that cbir.similar_images returns. It is a type because the result columns of a
--   function may not have the names of its arguments.
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
'Describes one retrieved image: rank from 1, cosine distance (0 is identical direction) and similarity (1 -'
' distance), labels, dataset, modality, region, study and file, mode (exact or approximate), and whether all rows that'
' exist up to k were returned.';
