-- Title: Find the vector index that a search may use
-- Description: Returns no index for an exact search, if row-level security hides images from the caller (an index
--   covers everybody's), and while a walk might take a second index (see rival_index).
-- Inputs: an encoder, a mode.
-- Returns: the build in use; a row of NULLs: compare exactly.
CREATE FUNCTION cbir_internal.usable_index(encoder cbir.encoder, mode text)
RETURNS cbir.index_build
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    build cbir.index_build;
BEGIN
    IF mode = 'exact' OR cbir_internal.rows_are_restricted() THEN
        RETURN NULL;
    END IF;
    SELECT b.* INTO build
    FROM cbir.index_build AS b
    INNER JOIN pg_index AS x ON x.indexrelid = to_regclass(format('cbir.%I', b.index_name))
    WHERE b.encoder_id = (encoder).encoder_id AND b.dropped_at IS NULL AND x.indisvalid
    ORDER BY b.index_build_id DESC LIMIT 1;
    IF build.index_build_id IS NULL THEN
        IF mode = 'approximate' THEN
            RAISE EXCEPTION 'encoder "%" has no vector index', (encoder).name
                USING ERRCODE = 'undefined_object', HINT = format('Run: cbirdb index build -e %s', (encoder).name);
        END IF;
        RETURN NULL;
    END IF;
    IF cbir_internal.rival_index(to_regclass(format('cbir.%I', build.index_name))) IS NOT NULL THEN
        RETURN NULL;
    END IF;
    RETURN build;
END
$$;

COMMENT ON FUNCTION cbir_internal.usable_index(cbir.encoder, text) IS
'Returns the build of the vector index that a search may use, or a row of NULLs.';
