-- Title: The split of an image under the evaluation protocols
-- Description: What the paper's code takes as train, val and test. CheXpert: valid.csv is the test split; CheXpert and
--   NIH ChestX-ray14 have no split of their own for validation, so a tenth of the training patients, drawn by their
--   pseudonym and the seed, is val. All other datasets: as they say.
-- Reference: Denner et al., Leveraging Foundation Models for Content-Based Medical Image Retrieval in Radiology, and
--   its authors' code.
-- Inputs: the dataset's reader, the image's official split, the patient's pseudonym (NULL: unknown), a seed.
CREATE FUNCTION cbir_internal.evaluation_split(reader text, split text, pseudonym text, seed bigint)
RETURNS text
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
AS $$
-- The seed is cast, since number || text is not IMMUTABLE, and a body that is not is called for every image instead of
-- becoming part of the statement.
SELECT CASE
    WHEN $1 = 'chexpert' AND $2 = 'val' THEN 'test'
    WHEN $1 = 'chexpert' AND $2 = 'test' THEN NULL
    WHEN
        $1 IN ('chexpert', 'nih14') AND $2 = 'train'
        -- The first 32 bits of an MD5 digest, as a number from 0 to 1.
        AND ('x' || left(md5($3 || '/' || $4::text), 8))::bit(32)::bigint / 4294967296.0 < 0.1
        THEN 'val'
    ELSE $2
END
$$;

COMMENT ON FUNCTION cbir_internal.evaluation_split(text, text, text, bigint) IS
'Train, val or test as the paper takes it: CheXpert''s valid.csv is test; 90/10 by patient where there is no val.';
