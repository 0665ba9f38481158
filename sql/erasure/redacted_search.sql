-- Title: Row of the audit without erased data
-- Description: Returns the row that an erasure leaves; guard_audit allows no other change. It removes and counts ids of
--   images; the others keep their order. A filter's list of lists becomes one list. If the filter named an image, a
--   study or a patient by itself, or the purpose named a patient's pseudonym, "erased" takes its place.
-- Inputs: a row of cbir.search_audit; ids of images, studies and patients; a pseudonym (NULL: none).
CREATE FUNCTION cbir_internal.redacted_search(
    entry cbir.search_audit, image_ids bigint[], study_ids bigint[], patient_ids bigint[], pseudonym text
)
RETURNS cbir.search_audit
LANGUAGE plpgsql
STABLE
SET search_path FROM CURRENT
AS $$
DECLARE
    returned constant bigint[] := ARRAY(
        SELECT r.image_id FROM unnest(entry.returned) WITH ORDINALITY AS r (image_id, rank)
        WHERE (r.image_id = ANY (image_ids)) IS NOT TRUE ORDER BY r.rank
    );
    listed constant numeric[] := ARRAY(
        SELECT f.id::numeric
        FROM jsonb_path_query(entry.filter -> 'image_ids', 'strict $.** ? (@.type() == "number")')
            WITH ORDINALITY AS f (id, place)
        ORDER BY f.place
    );
    kept constant numeric[] := ARRAY(
        SELECT f.id FROM unnest(listed) WITH ORDINALITY AS f (id, place)
        WHERE f.id <> ALL (image_ids::numeric[]) ORDER BY f.place
    );
    one record;
BEGIN
    entry.erased_ids := entry.erased_ids
        + cardinality(entry.returned) - cardinality(returned) + cardinality(listed) - cardinality(kept)
        + (entry.query_image_id IS NOT NULL AND entry.query_image_id = ANY (image_ids))::integer
        + coalesce(to_jsonb(image_ids) @> (entry.filter -> 'without_image'), FALSE)::integer;
    entry.returned := returned;
    entry.purpose := cbir_internal.erased_purpose(entry.purpose, redacted_search.pseudonym);
    IF entry.query_image_id = ANY (image_ids) THEN
        entry.query_image_id := NULL;
    END IF;
    IF entry.filter ? 'image_ids' THEN
        entry.filter := entry.filter || jsonb_build_object('image_ids', kept);
    END IF;
    FOR one IN
        SELECT n.name, n.ids
        FROM (
            VALUES ('without_image', image_ids), ('study_id', study_ids), ('without_patient', patient_ids)
        ) AS n (name, ids)
        WHERE to_jsonb(n.ids) @> (entry.filter -> n.name)
    LOOP
        entry.filter := entry.filter || jsonb_build_object(one.name, 'erased');
    END LOOP;
    RETURN entry;
END
$$;

COMMENT ON FUNCTION cbir_internal.redacted_search(cbir.search_audit, bigint[], bigint[], bigint[], text) IS
'Returns a row of cbir.search_audit without these images (which it counts), studies, patients and pseudonym.';
