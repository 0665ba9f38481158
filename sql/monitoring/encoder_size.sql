-- Title: Disk space of each encoder
-- Description: Shows encoders, one per row, with the size of the embedding table, the key's index and the vector index,
--   in bytes and per image. The number of images is PostgreSQL's own estimate, so that the view answers at once on
--   tables of any size.
-- Reference: https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-ADMIN-DBSIZE
CREATE VIEW cbir.encoder_size WITH (security_invoker = TRUE) AS
WITH measured AS (
    SELECT
        e.encoder_id,
        -- A crash loses the live counts, but not the estimate of the last ANALYZE.
        coalesce(nullif(max(s.n_live_tup), 0), greatest(max(c.reltuples), 0)::bigint) AS images,
        pg_table_size(c.oid) AS table_bytes,
        coalesce(sum(pg_relation_size(i.indexrelid)) FILTER (WHERE i.indisprimary), 0)::bigint AS key_bytes,
        coalesce(sum(pg_relation_size(i.indexrelid)) FILTER (WHERE NOT i.indisprimary), 0)::bigint AS vector_index_bytes
    FROM cbir.encoder AS e
    INNER JOIN pg_catalog.pg_class AS c ON c.oid = to_regclass('cbir.' || quote_ident(e.table_name))
    LEFT JOIN pg_catalog.pg_stat_all_tables AS s ON c.oid = s.relid
    LEFT JOIN pg_catalog.pg_index AS i ON c.oid = i.indrelid
    GROUP BY e.encoder_id, c.oid
)

SELECT
    e.name AS encoder,
    e.dim,
    e.precision,
    m.images,
    m.table_bytes,
    m.key_bytes,
    m.vector_index_bytes,
    m.table_bytes + m.key_bytes + m.vector_index_bytes AS total_bytes,
    round((m.table_bytes + m.key_bytes)::numeric / nullif(m.images, 0), 1) AS bytes_per_image,
    round(m.vector_index_bytes::numeric / nullif(m.images, 0), 1) AS index_bytes_per_image
FROM cbir.encoder AS e
INNER JOIN measured AS m ON e.encoder_id = m.encoder_id
WHERE cbir_internal.sees_all_rows();

COMMENT ON VIEW cbir.encoder_size IS
'Shows bytes on disk per encoder: embedding table, key and vector index, in all and per image (number of images'
' estimated).';
