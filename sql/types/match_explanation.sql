-- Title: Comparison of two images under one encoder
-- Description: Describes one row that cbir.explain_match returns. There is a row per encoder that has both images; the
--   columns that do not depend on the encoder repeat.
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
'Describes two images under one encoder (NULL: no encoder has both): cosine distance and similarity, positive labels'
' that both or only one of them carries, and whether file, patient, study, series, dataset, modality and anatomic'
' region are the same (NULL: not known for one of them).';
