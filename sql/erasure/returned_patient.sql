-- Title: Erased patients who have come back
-- Description: Lists patients and images that have a certificate of erasure but are in the catalogue, for example after
--   a partial restore. There is one row per patient, one per patient that an erased one was merged into, and one per
--   image that a certificate names. `cbirdb erase --reapply` erases them again.
CREATE VIEW cbir.returned_patient WITH (security_invoker = TRUE) AS
SELECT
    c.certificate_id,
    d.name AS dataset,
    p.pseudonym,
    NULL::bigint AS image_id
FROM cbir.erasure_certificate AS c
INNER JOIN cbir.dataset AS d ON c.dataset = d.name
INNER JOIN cbir.patient AS p
    ON d.dataset_id = p.dataset_id AND c.pseudonym_sha256 = cbir.erasure_hash(d.name, p.pseudonym)
UNION ALL
SELECT
    c.certificate_id,
    d.name AS dataset,
    p.pseudonym,
    NULL::bigint AS image_id
FROM cbir.erasure_certificate AS c
INNER JOIN cbir.dataset AS d ON c.dataset = d.name
INNER JOIN cbir.merged_patient AS m
    ON d.dataset_id = m.dataset_id AND c.pseudonym_sha256 = cbir.erasure_hash(d.name, m.pseudonym)
INNER JOIN cbir.patient AS p ON m.patient_id = p.patient_id
UNION ALL
SELECT
    e.certificate_id,
    d.name AS dataset,
    NULL AS pseudonym,
    i.image_id
FROM cbir.erased_image AS e
INNER JOIN cbir.erasure_certificate AS c ON e.certificate_id = c.certificate_id
INNER JOIN cbir.dataset AS d ON c.dataset = d.name
INNER JOIN cbir.image AS i
    ON d.dataset_id = i.dataset_id AND e.source_sha256 = cbir.erasure_hash(d.name, i.source);

COMMENT ON VIEW cbir.returned_patient IS
'Lists patients and images that have been erased but are in the catalogue.';
