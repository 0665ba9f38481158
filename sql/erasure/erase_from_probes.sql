-- Title: Remove images from linear probes
-- Description: Removes the predictions of the images, so that the figures are those of the other test images. A probe
--   stores no fitted model, but its predictions for others still rest on an erased train image, and the choice of its c
--   on an erased val image. The probe counts both kinds: probe_run.erased_images, erased_fitted_images.
-- Inputs: ids of images that are still in the catalogue.
-- Returns: an object with the number of removed rows (probe_prediction).
CREATE FUNCTION cbir_internal.erase_from_probes(image_ids bigint[])
RETURNS jsonb
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    probe record;
    predictions bigint;
    fitted bigint;
    removed bigint := 0;
BEGIN
    FOR probe IN
        SELECT r.*, e.table_name
        FROM cbir.probe_run AS r
        INNER JOIN cbir.encoder AS e ON e.encoder_id = r.encoder_id
        ORDER BY r.probe_id
    LOOP
        DELETE FROM cbir.probe_prediction AS p WHERE p.probe_id = probe.probe_id AND p.image_id = ANY (image_ids);
        GET DIAGNOSTICS predictions = ROW_COUNT;
        -- By the definition that made the probe. If patients are kept apart, only a patient's last split took part.
        EXECUTE format(
            'SELECT coalesce(sum(CASE
                WHEN $1 OR o.patient_id IS NULL THEN o.train + o.val
                WHEN o.test > 0 THEN 0
                WHEN o.val > 0 THEN o.val
                ELSE o.train
            END), 0)
            FROM (
                SELECT
                    p.patient_id,
                    count(*) FILTER (WHERE s.split = ''train'') AS train,
                    count(*) FILTER (WHERE s.split = ''val'') AS val,
                    count(*) FILTER (WHERE s.split = ''test'') AS test
                FROM unnest(''{train,val,test}''::text[]) AS s (split)
                CROSS JOIN LATERAL cbir_internal.protocol_image(''paper'', s.split, $2, $3) AS p
                INNER JOIN cbir.%I AS e ON e.image_id = p.image_id
                WHERE p.image_id = ANY ($4)
                GROUP BY p.patient_id
            ) AS o', probe.table_name
        ) INTO fitted
        USING probe.same_patient, probe.datasets, probe.split_seed, image_ids;
        UPDATE cbir.probe_run AS r
        SET erased_images = r.erased_images + predictions, erased_fitted_images = r.erased_fitted_images + fitted
        WHERE r.probe_id = probe.probe_id AND predictions + fitted > 0;
        removed := removed + predictions;
    END LOOP;
    RETURN jsonb_build_object('probe_prediction', removed);
END
$$;

COMMENT ON FUNCTION cbir_internal.erase_from_probes(bigint[]) IS
'Removes the predictions of images from linear probes, and counts the erased images that a probe was fitted to.';
