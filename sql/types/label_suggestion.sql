-- Title: A label that an image's neighbours carry
-- Description: Describes one row that cbir.label_suggestions returns.
CREATE TYPE cbir.label_suggestion AS (
    rank integer,
    label text,
    votes integer,
    neighbours integer,
    vote_share double precision,
    nearest_image_id bigint,
    nearest_distance double precision,
    class_precision double precision,
    class_queries bigint,
    run_id bigint,
    remark text,
    mode text,
    complete boolean
);

COMMENT ON TYPE cbir.label_suggestion IS
'Describes one suggested label: votes among the neighbours and their share of all neighbours (an image with two'
' labels votes for both), the nearest image that carries the label, the precision of this class at this k that run_id'
' measured on class_queries queries (NULL: remark gives the reason), mode (exact or approximate), and whether all'
' neighbours that exist up to k voted.';
