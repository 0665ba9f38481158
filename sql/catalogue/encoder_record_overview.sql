-- Title: Records of encoders that were added to this database
-- Description: What `cbirdb encoders add` stored: encoders besides those that ship with cbirdb.
CREATE VIEW cbir.encoder_record_overview WITH (security_invoker = TRUE) AS
SELECT
    r.name AS encoder,
    r.spec
FROM cbir.encoder_record AS r;

COMMENT ON VIEW cbir.encoder_record_overview IS
'One row per encoder record that was added to this database.';
