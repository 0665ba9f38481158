-- Title: Add or update images of a dataset
-- Description: Writes images with their patients, studies and labels, all in the caller's transaction. A record with an
--   image_id replaces the stored image; if the file's hash has changed, the embeddings are removed. A record without an
--   image_id is added, unless an image with its source exists: then another load was faster, and the existing image
--   stays. Loading fills tables faster than statistics follow, so two measures keep plans good. Each id is looked up by
--   a subquery of its own, which has one index to use, in place of a join. EXECUTE plans each batch anew, because a
--   cached plan would be the one for empty tables. (The setting plan_cache_mode would also plan each check of a foreign
--   key anew.)
-- Inputs: a dataset's id; an array of objects with the fields of cbir.image_record.
-- Returns: source, frame (from 0) and id of each image that was added.
CREATE FUNCTION cbir_internal.store_images(dataset_id bigint, images jsonb)
RETURNS TABLE (source text, frame integer, image_id bigint)
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
#variable_conflict use_column
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
    given constant cbir.image_record [] := ARRAY(
        SELECT r FROM jsonb_populate_recordset(NULL::cbir.image_record, images) AS r
    );
    known bigint [];
    changed bigint [];
    added_sources text [];
    added_frames integer [];
    added_ids bigint [];
BEGIN
    PERFORM cbir_internal.store_people(store_images.dataset_id, given);
    -- Locked in the order of their ids, as an encode does, so that no deadlock occurs.
    EXECUTE $statement$
    SELECT array_agg(l.image_id), array_agg(l.image_id) FILTER (WHERE l.changed)
    FROM (
        SELECT
            i.image_id,
            -- A DICOM file whose size or time has changed comes without a hash.
            i.sha256 <> r.sha256 OR (i.sha256 IS NOT NULL AND r.sha256 IS NULL AND r.file_modified_ns IS NOT NULL)
                AS changed
        FROM cbir.image AS i
        INNER JOIN unnest($2) AS r ON r.image_id = i.image_id
        WHERE i.dataset_id + 0 = $1  -- keeps the planner off the index by dataset
        ORDER BY i.image_id
        FOR NO KEY UPDATE OF i
    ) AS l
    $statement$ INTO known, changed USING store_images.dataset_id, given;
    IF known IS NOT NULL THEN
        EXECUTE $statement$
        UPDATE cbir.image AS i SET
            source = r.source, split = r.split, modality = r.modality, anatomic_region = r.anatomic_region,
            view = r.view, sha256 = r.sha256, width = r.width, height = r.height, file_bytes = r.file_bytes,
            file_modified_ns = r.file_modified_ns, damage = r.damage,
            sop_uid = r.sop_uid, pixel_sha256 = r.pixel_sha256, sop_class_uid = r.sop_class_uid,
            transfer_syntax_uid = r.transfer_syntax_uid, modality_code = r.modality_code, body_part = r.body_part,
            laterality = r.laterality, image_type = r.image_type, presentation_intent = r.presentation_intent,
            manufacturer = r.manufacturer, manufacturer_model = r.manufacturer_model,
            photometric_interpretation = r.photometric_interpretation, burned_in_annotation = r.burned_in_annotation,
            pixel_spacing = r.pixel_spacing, slice_position = r.slice_position, slice_orientation = r.slice_orientation,
            replaced_by = CASE WHEN i.image_id = ANY($4) THEN NULL ELSE i.replaced_by END,
            patient_id = (SELECT p.patient_id FROM cbir.patient AS p WHERE p.dataset_id = $1 AND p.pseudonym = r.pseudonym),
            study_id = (SELECT s.study_id FROM cbir.study AS s WHERE s.dataset_id = $1 AND s.study_uid = r.study_uid),
            series_id = (
                SELECT e.series_id FROM cbir.series AS e
                WHERE e.series_uid = r.series_uid AND e.study_id = (
                    SELECT s.study_id FROM cbir.study AS s WHERE s.dataset_id = $1 AND s.study_uid = r.study_uid
                )
            )
        FROM unnest($2) AS r
        WHERE i.image_id = r.image_id AND i.image_id = ANY($3)
        $statement$ USING store_images.dataset_id, given, known, coalesce(changed, '{}');
        EXECUTE 'DELETE FROM cbir.image_label AS l WHERE l.image_id = ANY($1)' USING known;
    END IF;
    IF changed IS NOT NULL THEN
        PERFORM cbir_internal.forget_embeddings(changed);
    END IF;
    EXECUTE $statement$
    WITH added AS (
        INSERT INTO cbir.image (
            dataset_id, source, split, modality, anatomic_region, view, sha256, width, height, file_bytes,
            file_modified_ns, damage, frame, sop_uid, pixel_sha256,
            sop_class_uid, transfer_syntax_uid, modality_code, body_part, laterality, image_type, presentation_intent,
            manufacturer, manufacturer_model, photometric_interpretation, burned_in_annotation, pixel_spacing,
            slice_position, slice_orientation,
            patient_id, study_id, series_id
        )
        SELECT
            $1, r.source, r.split, r.modality, r.anatomic_region, r.view, r.sha256, r.width, r.height, r.file_bytes,
            r.file_modified_ns, r.damage, coalesce(r.frame, 0), r.sop_uid, r.pixel_sha256,
            r.sop_class_uid, r.transfer_syntax_uid, r.modality_code, r.body_part, r.laterality, r.image_type,
            r.presentation_intent, r.manufacturer, r.manufacturer_model, r.photometric_interpretation,
            r.burned_in_annotation, r.pixel_spacing, r.slice_position, r.slice_orientation,
            (SELECT p.patient_id FROM cbir.patient AS p WHERE p.dataset_id = $1 AND p.pseudonym = r.pseudonym),
            (SELECT s.study_id FROM cbir.study AS s WHERE s.dataset_id = $1 AND s.study_uid = r.study_uid),
            (
                SELECT e.series_id FROM cbir.series AS e
                WHERE e.series_uid = r.series_uid AND e.study_id = (
                    SELECT s.study_id FROM cbir.study AS s WHERE s.dataset_id = $1 AND s.study_uid = r.study_uid
                )
            )
        FROM unnest($2) WITH ORDINALITY AS r
        WHERE r.image_id IS NULL
        ORDER BY r.ordinality
        ON CONFLICT ON CONSTRAINT image_dataset_id_source_frame_key DO NOTHING
        RETURNING source, frame, image_id
    )

    SELECT array_agg(a.source), array_agg(a.frame), array_agg(a.image_id) FROM added AS a
    $statement$ INTO added_sources, added_frames, added_ids USING store_images.dataset_id, given;
    PERFORM cbir_internal.store_labels(array_agg(l.image_id), array_agg(l.labels))
    FROM (
        SELECT r.image_id, r.labels FROM unnest(given) AS r WHERE r.image_id = ANY(known)
        UNION ALL
        SELECT a.image_id, r.labels
        FROM unnest(added_sources, added_frames, added_ids) AS a (source, frame, image_id)
        INNER JOIN unnest(given) AS r ON r.source = a.source AND coalesce(r.frame, 0) = a.frame AND r.image_id IS NULL
    ) AS l;
    RETURN QUERY
    SELECT a.source, a.frame, a.image_id FROM unnest(added_sources, added_frames, added_ids) AS a (source, frame, image_id);
END
$$;

COMMENT ON FUNCTION cbir_internal.store_images(bigint, jsonb) IS
'Adds or updates images of a dataset; returns source, frame and id of those that were added.';
