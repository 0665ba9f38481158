-- Title: Store the record of an encoder
-- Description: Stores a record for an encoder that does not ship with cbirdb. It runs as the owner, as register_encoder
--   does. Checks limit what a record can make another machine load: a repository at the model hub or a folder, one of
--   the general loaders, plain options. The operator of each machine decides whether it may open a folder.
-- Inputs: the encoder's name; its record as `cbirdb encoders add` makes it.
-- Returns: TRUE if the record was stored; FALSE if the name is taken.
CREATE FUNCTION cbir_internal.add_encoder_record(name text, spec jsonb)
RETURNS boolean
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
BEGIN
    PERFORM cbir_internal.check_encoder_name(name);
    IF
        (spec ->> 'name' = name) IS NOT TRUE
        OR (spec ->> 'weights' ~ '^([A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*|/.*)$') IS NOT TRUE
        OR (spec ->> 'family' IN ('huggingface', 'openclip', 'timm_models')) IS NOT TRUE
        OR jsonb_typeof(coalesce(spec -> 'options', '{}')) <> 'object'
        OR EXISTS (
            SELECT FROM jsonb_object_keys(coalesce(spec -> 'options', '{}')) AS o (option)
            WHERE o.option NOT IN ('pooling', 'quick_gelu', 'interpolate_offset')
        )
        OR coalesce(spec -> 'options' ->> 'interpolate_offset', '0') !~ '^0([.][0-9]+)?$'
        -- Fields that every record must have, because each command of each site reads all records.
        OR EXISTS (
            SELECT FROM unnest('{embedding,preprocessing,licence,training_scheme,citation}'::text[]) AS f (field)
            WHERE jsonb_typeof(spec -> f.field) IS DISTINCT FROM 'string'
        )
        OR jsonb_typeof(coalesce(spec -> 'revision', 'null')) NOT IN ('string', 'null')
        OR coalesce(spec ->> 'rendering', '') !~ '^[a-z0-9:.,-]{0,200}$'
        OR (spec -> 'dim' = 'null' OR spec ->> 'dim' ~ '^[1-9][0-9]{0,4}$') IS NOT TRUE
        OR octet_length(spec::text) > 20000
    THEN
        RAISE EXCEPTION 'the record of encoder "%" is not valid', name USING
            ERRCODE = 'invalid_parameter_value', HINT = 'Create it by running: cbirdb encoders add';
    END IF;
    INSERT INTO cbir.encoder_record (name, spec) VALUES (add_encoder_record.name, add_encoder_record.spec)
    ON CONFLICT DO NOTHING;
    RETURN FOUND;
END
$$;

COMMENT ON FUNCTION cbir_internal.add_encoder_record(text, jsonb) IS
'Stores the record of an encoder; returns FALSE if the name is taken.';
