-- Title: Add or update the patients, studies and series of images
-- Description: Writes patients, studies and series always in the same order, so that two concurrent loads do not
--   deadlock. A known sex is not overwritten by NULL. store_images explains the look-up of ids.
-- Inputs: a dataset's id; images.
CREATE FUNCTION cbir_internal.store_people(dataset_id bigint, images cbir.image_record[])
RETURNS void
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
BEGIN
    INSERT INTO cbir.patient AS old (dataset_id, pseudonym, sex)
    SELECT store_people.dataset_id, g.pseudonym, g.sex
    FROM (
        SELECT DISTINCT ON (r.pseudonym) r.pseudonym, r.sex
        FROM unnest(images) WITH ORDINALITY AS r
        WHERE r.pseudonym IS NOT NULL
        ORDER BY r.pseudonym, r.sex IS NULL, r.study_uid DESC NULLS LAST, r.ordinality DESC
    ) AS g
    ORDER BY g.pseudonym
    ON CONFLICT ON CONSTRAINT patient_dataset_id_pseudonym_key DO UPDATE SET sex = coalesce(excluded.sex, old.sex);
    EXECUTE $statement$
    INSERT INTO cbir.study AS old (dataset_id, study_uid, patient_id, study_date, age_years, accession)
    SELECT
        $1, g.study_uid,
        (SELECT p.patient_id FROM cbir.patient AS p WHERE p.dataset_id = $1 AND p.pseudonym = g.pseudonym),
        g.study_date, g.age_years, g.accession
    FROM (
        SELECT DISTINCT ON (r.study_uid) r.study_uid, r.pseudonym, r.study_date, r.age_years, r.accession
        FROM unnest($2) WITH ORDINALITY AS r
        WHERE r.study_uid IS NOT NULL
        ORDER BY r.study_uid, r.pseudonym DESC NULLS LAST, r.ordinality DESC
    ) AS g
    ORDER BY g.study_uid
    ON CONFLICT ON CONSTRAINT study_dataset_id_study_uid_key DO UPDATE SET
        patient_id = excluded.patient_id, study_date = excluded.study_date, age_years = excluded.age_years,
        accession = excluded.accession
    $statement$ USING store_people.dataset_id, images;
    EXECUTE $statement$
    INSERT INTO cbir.series (study_id, series_uid)
    SELECT s.study_id, g.series_uid
    FROM (SELECT DISTINCT r.study_uid, r.series_uid FROM unnest($2) AS r WHERE r.series_uid IS NOT NULL) AS g
    INNER JOIN cbir.study AS s ON s.dataset_id = $1 AND s.study_uid = g.study_uid
    ORDER BY s.study_id, g.series_uid
    ON CONFLICT ON CONSTRAINT series_study_id_series_uid_key DO NOTHING
    $statement$ USING store_people.dataset_id, images;
END
$$;

COMMENT ON FUNCTION cbir_internal.store_people(bigint, cbir.image_record[]) IS
'Adds or updates the patients, studies and series of images.';
