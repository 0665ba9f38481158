-- Title: Split of an image under the evaluation protocols
-- Description: Returns train, val or test as the paper's code assigns them. CheXpert's valid.csv is the test split.
--   CheXpert and NIH ChestX-ray14 have no validation split of their own, so a tenth of the training patients, drawn by
--   their pseudonym and the seed, is val. All other datasets keep their official splits.
-- Reference: Denner et al., Leveraging Foundation Models for Content-Based Medical Image Retrieval in Radiology, and
--   its authors' code.
-- Inputs: the dataset's reader, the image's official split, the patient's pseudonym (NULL: unknown), a seed.
CREATE FUNCTION cbir_internal.evaluation_split(reader text, split text, pseudonym text, seed bigint)
RETURNS text
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
AS $$
-- The seed is cast because number || text is not IMMUTABLE. If the body is not IMMUTABLE, PostgreSQL cannot inline the
-- function into the statement, and calls it for every image.
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
'Returns train, val or test as the paper assigns it: CheXpert''s valid.csv is test; 90/10 by patient for readers'
' without a val split (CheXpert, NIH ChestX-ray14).';
