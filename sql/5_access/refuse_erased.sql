-- Title: Refuse erased patients and their images
-- Description: Trigger function, once per statement: whoever inserts, and by which way, an erased patient does not come
--   back. `cbirdb ingest` leaves them out before it gets here.
CREATE FUNCTION cbir.refuse_erased()
RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    erased boolean := EXISTS (SELECT FROM cbir.erasure_certificate);
BEGIN
    IF TG_RELID NOT IN ('cbir.patient'::regclass, 'cbir.image'::regclass) THEN
        RAISE EXCEPTION 'this trigger function is for cbir.patient and cbir.image' USING
            ERRCODE = 'insufficient_privilege';
    END IF;
    IF erased AND TG_RELID = 'cbir.patient'::regclass THEN
        erased := EXISTS (
            SELECT FROM added AS a
            INNER JOIN cbir.dataset AS d ON d.dataset_id = a.dataset_id
            INNER JOIN cbir.erasure_certificate AS c ON c.pseudonym_sha256 = cbir.erasure_hash(d.name, a.pseudonym)
        );
    ELSIF erased THEN
        erased := EXISTS (
            SELECT FROM added AS a
            INNER JOIN cbir.dataset AS d ON d.dataset_id = a.dataset_id
            INNER JOIN cbir.erased_image AS e ON e.source_sha256 = cbir.erasure_hash(d.name, a.source)
        );
    END IF;
    IF erased THEN
        RAISE EXCEPTION 'an erased patient cannot be brought back' USING
            ERRCODE = 'integrity_constraint_violation',
            HINT = 'cbir.erasure_certificate says which datasets and when; cbir.erased_source names the files.';
    END IF;
    RETURN NULL;
END
$$;

REVOKE ALL ON FUNCTION cbir.refuse_erased() FROM public;

COMMENT ON FUNCTION cbir.refuse_erased() IS
'Trigger function: refuses rows of erased patients.';
