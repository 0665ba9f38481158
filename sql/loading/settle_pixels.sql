-- Title: Record the pixels of DICOM frames, and settle equal UIDs
-- Description: Writes what the first reading of DICOM frames gave. Then it looks at other frames of the same dataset
--   with the same SOP instance UID and frame number whose pixels are known. If one has the same pixels, the frame is a
--   copy, and the older one is searched in its place. If the pixels differ, the caller's choice decides: keep both;
--   replace the older one, whose embeddings are removed; skip, which writes nothing. The function locks all these
--   frames in the order of their ids, so that two processes that read both frames at once decide one after the other.
-- Inputs: ids of frames; for each the SHA-256 of file and pixels, width and height; keep, replace or skip.
-- Returns: each frame that had not been read, with its outcome: own, copy, kept, replaced or skipped; frames that had
--   been read and are copies; frames that another one has replaced: overtaken.
CREATE FUNCTION cbir_internal.settle_pixels(
    image_ids bigint[], hashes bytea[], pixel_hashes bytea[], widths integer[], heights integer[], on_conflict text
)
RETURNS TABLE (image_id bigint, outcome text)
LANGUAGE plpgsql
SET plan_cache_mode = force_custom_plan
SET search_path FROM CURRENT
AS $$
#variable_conflict use_column
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
    given record;
    twin record;
    result text;
BEGIN
    IF on_conflict NOT IN ('keep', 'replace', 'skip') THEN
        RAISE EXCEPTION 'on_conflict is keep, replace or skip' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Datasets first, as in lock_images.
    PERFORM FROM cbir.dataset AS d
    WHERE d.dataset_id IN (SELECT i.dataset_id FROM cbir.image AS i WHERE i.image_id = ANY(image_ids))
    ORDER BY d.dataset_id
    FOR KEY SHARE;
    PERFORM FROM cbir.image AS i
    WHERE
        i.image_id = ANY(image_ids) OR i.sop_uid IN (
            SELECT o.sop_uid FROM cbir.image AS o WHERE o.image_id = ANY(image_ids) AND o.sop_uid IS NOT NULL
        )
    ORDER BY i.image_id
    FOR NO KEY UPDATE;
    -- Read by another process, or for another encoder, meanwhile.
    RETURN QUERY SELECT i.image_id, 'copy' FROM cbir.image AS i WHERE i.image_id = ANY(image_ids) AND i.replaced_by IS NOT NULL;
    FOR given IN
        SELECT i.image_id, i.dataset_id, i.sop_uid, i.frame, r.sha256, r.pixel_sha256, r.width, r.height
        FROM unnest(image_ids, hashes, pixel_hashes, widths, heights) AS r (image_id, sha256, pixel_sha256, width, height)
        INNER JOIN cbir.image AS i ON i.image_id = r.image_id
        WHERE i.sha256 IS NULL
        ORDER BY i.image_id
    LOOP
        twin := NULL;
        SELECT o.image_id, o.pixel_sha256 = given.pixel_sha256 AS same INTO twin
        FROM cbir.image AS o
        WHERE
            o.dataset_id = given.dataset_id AND o.sop_uid = given.sop_uid AND o.frame = given.frame
            AND o.image_id <> given.image_id AND o.pixel_sha256 IS NOT NULL AND o.replaced_by IS NULL
        ORDER BY o.pixel_sha256 = given.pixel_sha256 DESC, o.image_id
        LIMIT 1;
        result := CASE
            WHEN twin IS NULL THEN 'own'
            WHEN twin.same THEN 'copy'
            WHEN on_conflict = 'keep' THEN 'kept'
            WHEN on_conflict = 'replace' THEN 'replaced'
            ELSE 'skipped'
        END;
        IF result <> 'skipped' THEN
            UPDATE cbir.image AS i SET
                sha256 = given.sha256, pixel_sha256 = given.pixel_sha256, width = given.width, height = given.height,
                replaced_by = CASE WHEN result = 'copy' THEN twin.image_id END
            WHERE i.image_id = given.image_id;
        END IF;
        IF result = 'replaced' THEN
            -- Of these, some may have been read in the same call.
            RETURN QUERY
            UPDATE cbir.image AS i SET replaced_by = given.image_id
            WHERE
                i.dataset_id = given.dataset_id AND i.sop_uid = given.sop_uid AND i.frame = given.frame
                AND i.image_id <> given.image_id AND i.pixel_sha256 IS NOT NULL
            RETURNING i.image_id, 'overtaken';
            PERFORM cbir_internal.forget_embeddings(ARRAY(
                SELECT i.image_id FROM cbir.image AS i WHERE i.replaced_by = given.image_id
            ));
        END IF;
        RETURN QUERY SELECT given.image_id, result;
    END LOOP;
END
$$;

COMMENT ON FUNCTION cbir_internal.settle_pixels(bigint[], bytea[], bytea[], integer[], integer[], text) IS
'Writes hashes of DICOM frames that were read, and decides what becomes of frames with the same SOP instance UID.';
