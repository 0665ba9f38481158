-- Title: Records of encoders that were added to this database
-- Description: Lists the records that `cbirdb encoders add` stored, of encoders that do not ship with cbirdb.
CREATE VIEW cbir.encoder_record_overview WITH (security_invoker = TRUE) AS
SELECT
    r.name AS encoder,
    r.spec
FROM cbir.encoder_record AS r;

COMMENT ON VIEW cbir.encoder_record_overview IS
'Lists the encoder records that were added to this database, one per row.';
