-- Title: Record a further library that computes an encoder's vectors
-- Description: Adds the name of a runtime to the list in the encoder's provenance. Vectors of one encoder may be
--   computed with torch and with onnxruntime; the program compares the fixed picture's vector before it calls this.
--   Nothing else of a description ever changes, so a site can neither take a name away nor write one of its own.
-- Inputs: an encoder; the runtime: torch, onnxruntime or numpy.
CREATE FUNCTION cbir_internal.note_runtime(encoder text, runtime text)
RETURNS void
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
BEGIN
    IF (runtime IN ('torch', 'onnxruntime', 'numpy')) IS NOT TRUE THEN
        RAISE EXCEPTION 'a runtime is torch, onnxruntime or numpy' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Records of earlier versions name none; then it was torch.
    UPDATE cbir.encoder AS e
    SET provenance = jsonb_set(e.provenance, '{runtimes}', known.runtimes || to_jsonb(runtime))
    FROM (
        SELECT
            s.encoder_id,
            coalesce(
                s.provenance -> 'runtimes', jsonb_build_array(coalesce(s.provenance ->> 'runtime', 'torch'))
            ) AS runtimes
        FROM cbir.encoder AS s
        WHERE s.name = note_runtime.encoder
        FOR UPDATE
    ) AS known
    WHERE e.encoder_id = known.encoder_id AND NOT known.runtimes @> to_jsonb(runtime);
END
$$;

COMMENT ON FUNCTION cbir_internal.note_runtime(text, text) IS
'Adds a runtime to those that have computed vectors of an encoder.';
