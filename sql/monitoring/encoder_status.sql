-- Title: Number of images that each encoder has embedded
-- Description: Counts embeddings of the images that the acting role sees. cbir.encoder_size shows sizes on disk.
CREATE FUNCTION cbir.encoder_status()
RETURNS TABLE (encoder text, embeddings bigint, dim integer, stored_precision text, table_bytes bigint)
LANGUAGE plpgsql
STABLE
SET search_path FROM CURRENT
AS $$
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
    spec cbir.encoder;
BEGIN
    FOR spec IN SELECT e.* FROM cbir_internal.embedded_encoder() AS e LOOP
        encoder := spec.name;
        dim := spec.dim;
        stored_precision := spec.precision;
        EXECUTE format('SELECT count(*) FROM cbir.%I', spec.table_name) INTO embeddings;
        table_bytes := CASE WHEN cbir_internal.sees_all_rows() THEN pg_table_size(format('cbir.%I', spec.table_name)::regclass) END;
        RETURN NEXT;
    END LOOP;
END
$$;

COMMENT ON FUNCTION cbir.encoder_status() IS
'Counts the embeddings of each encoder, with dimension, precision and bytes on disk (NULL: rows are restricted).';
