-- Title: What two images have in common, under one encoder
-- Description: What cbir.explain_match returns: a row per encoder that has both images; the other columns repeat.
CREATE TYPE cbir.match_explanation AS (
    encoder text,
    distance double precision,
    similarity double precision,
    shared_labels text [],
    labels_of_a_only text [],
    labels_of_b_only text [],
    identical_file boolean,
    same_patient boolean,
    same_study boolean,
    same_series boolean,
    same_dataset boolean,
    same_modality boolean,
    same_anatomic_region boolean
);

COMMENT ON TYPE cbir.match_explanation IS
'Two images under one encoder (NULL: no encoder has both): cosine distance and similarity, positive labels that both'
' or only one carries, and what is the same of them (NULL: not known of one of them).';
