-- Title: Whether the list of IVFFlat nearest to a vector holds so many rows
-- Description: Where many images are alike the nearest list is long, and what is wanted lies in it and a few more.
--   Where it is short, the next nearest lie in any list. Counting stops at the number asked about; 500 take about
--   a millisecond.
-- Inputs: an encoder with such an index; a vector of length 1; the number of rows.
CREATE FUNCTION cbir.nearest_list_holds(encoder cbir.encoder, query vector, number integer)
RETURNS boolean
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    holds boolean;
    previous text[] := cbir.swap_settings(
        '{enable_seqscan,off,enable_sort,off,jit,off,ivfflat.probes,1,ivfflat.iterative_scan,off}'
    );
BEGIN
    EXECUTE format(
        'SELECT count(*) >= $2
        FROM (SELECT FROM cbir.%I AS e ORDER BY e.embedding <=> $1::%s(%s) LIMIT $2) AS first',
        (encoder).table_name, CASE (encoder).precision WHEN 'half' THEN 'halfvec' ELSE 'vector' END, (encoder).dim
    )
        INTO holds
        USING query, number;
    previous := cbir.swap_settings(previous);
    RETURN holds;
END
$$;

COMMENT ON FUNCTION cbir.nearest_list_holds(cbir.encoder, vector, integer) IS
'Whether the list of an IVFFlat index that is nearest to a vector holds at least so many rows.';
