-- Title: Refuse erased patients and their images
-- Description: Refuses rows that would bring an erased patient back, whoever writes them and by whatever way (trigger
--   function of three tables alone; on another table it would reveal who has been erased). It checks patients and
--   images that are added, once per statement, and each one that gets another name or dataset. `cbirdb ingest` filters
--   them out before they reach this trigger. A dataset with a certificate keeps its name, and no other dataset may take
--   that name, because a hash that includes the name is all that identifies the erased data.
CREATE OR REPLACE FUNCTION cbir_internal.refuse_erased()
RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    erased boolean := EXISTS (SELECT FROM cbir.erasure_certificate);
BEGIN
    IF TG_RELID NOT IN ('cbir.patient'::regclass, 'cbir.image'::regclass, 'cbir.dataset'::regclass) THEN
        RAISE EXCEPTION 'cbir_internal.refuse_erased is a trigger function for cbir.patient, cbir.image and cbir.dataset only' USING
            ERRCODE = 'insufficient_privilege';
    END IF;
    IF NOT erased THEN
        RETURN NULL;
    ELSIF TG_RELID = 'cbir.dataset'::regclass THEN
        IF EXISTS (SELECT FROM cbir.erasure_certificate AS c WHERE c.dataset IN (old.name, new.name)) THEN
            RAISE EXCEPTION 'dataset "%" cannot be renamed to "%"', old.name, new.name USING
                ERRCODE = 'integrity_constraint_violation',
                HINT = 'A patient of one of these datasets was erased, and only the dataset''s name identifies the erased patient.';
        END IF;
        RETURN NULL;
    ELSIF TG_RELID = 'cbir.patient'::regclass AND TG_LEVEL = 'ROW' THEN
        erased := EXISTS (
            SELECT FROM cbir.dataset AS d
            INNER JOIN cbir.erasure_certificate AS c ON c.pseudonym_sha256 = cbir.erasure_hash(d.name, new.pseudonym)
            WHERE d.dataset_id = new.dataset_id
        );
    ELSIF TG_RELID = 'cbir.patient'::regclass THEN
        erased := EXISTS (
            SELECT FROM added AS a
            INNER JOIN cbir.dataset AS d ON d.dataset_id = a.dataset_id
            INNER JOIN cbir.erasure_certificate AS c ON c.pseudonym_sha256 = cbir.erasure_hash(d.name, a.pseudonym)
        );
    ELSIF TG_LEVEL = 'ROW' THEN
        erased := EXISTS (
            SELECT FROM cbir.dataset AS d
            INNER JOIN cbir.erased_image AS e ON e.source_sha256 = cbir.erasure_hash(d.name, new.source)
            WHERE d.dataset_id = new.dataset_id
        );
    ELSE
        erased := EXISTS (
            SELECT FROM added AS a
            INNER JOIN cbir.dataset AS d ON d.dataset_id = a.dataset_id
            INNER JOIN cbir.erased_image AS e ON e.source_sha256 = cbir.erasure_hash(d.name, a.source)
        );
    END IF;
    IF erased THEN
        RAISE EXCEPTION 'an erased patient cannot be brought back' USING
            ERRCODE = 'integrity_constraint_violation',
            HINT = 'cbir.erasure_certificate lists the erasures; cbir_internal.erased_source names the files.';
    END IF;
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION cbir_internal.refuse_erased() IS
'Refuses rows of erased patients, and other names for datasets with a certificate (trigger function).';
