-- Title: Plan a walk through a vector index
-- Description: Computes the walk for k neighbours under a filter, from the parameters that the index was built with and
--   the search settings that passed its audit. No other place does this. If a filter passes a share of the rows, its
--   k-th match is the (k / share)-th row of all. The walk must be accurate to that depth. Settings hold for the ten
--   nearest and, as "at_100", for the hundred nearest. Between the two, a width grows by a power of the depth. Without
--   "at_100", and beyond a hundred:
--     hnsw      hnsw.ef_search candidates, widened by two for every further row. pgvector allows 1,000. If a filter
--               needs more, the walk collects more matches than asked for: three candidates for each missing one.
--     bit-hnsw  the nearest by Hamming distance over the signs of the components. The first "rerank" of them are
--               then compared exactly; that number grows by the power 0.75 of the depth.
--     ivfflat   ivfflat.probes lists, times one and the number of lists that the further rows fill. Under a filter,
--               times three of them (with "at_100" only beyond a hundred), because rows so deep lie in any list.
--   The walk stops at 1.5 times the number of candidates expected to hold the wanted matches, plus five standard
--   deviations. A filter that matches evenly is satisfied by then. If it matches only far from the query, exact
--   comparison is faster.
--   The iterative scan is relaxed_order, because strict_order drops rows that it finds late. The caller therefore sorts
--   the answer again.
-- Inputs: method, parameters and search_settings as in cbir.index_build; number of rows in the index; dimension of the
--   vectors; k; estimated share of the rows that pass the filter; look_at, the number of candidates for a short look
--   instead of a full walk (NULL: full walk).
-- Returns: nearest_first, the expression to order by, over a row "e" and a query "q" that each have an embedding;
--   candidates, the number to walk over; kept, the number of passing candidates to compare by cosine distance;
--   settings, for swap_settings; cost of the full walk, in units of one exact comparison of a search, some 1.6
--   microseconds (measured: 7 for a candidate of a graph, 0.45 for a row of a list, 2.5 for a candidate of a list).
CREATE FUNCTION cbir_internal.index_walk(
    method text,
    parameters jsonb,
    search_settings jsonb,
    indexed bigint,
    dim integer,
    k integer,
    share double precision,
    look_at integer DEFAULT NULL,
    OUT nearest_first text,
    OUT candidates integer,
    OUT kept integer,
    OUT settings text[],
    OUT cost double precision
)
LANGUAGE plpgsql
IMMUTABLE
SET search_path FROM CURRENT
AS $$
DECLARE
    largest_ef_search constant integer := 1000;
    deep constant double precision := k / share;
    beyond_hundred constant double precision := greatest(deep - 100, 0);
    -- Grows from 0 at ten to 1 at a hundred, and stays 1 beyond.
    way constant double precision := log(least(greatest(deep, 10), 100) / 10);
    at_hundred constant double precision := (search_settings ->> 'at_100')::integer;
    at_ten double precision;
    width double precision;
    ef_search double precision;
    lists integer;
    probes integer;
    lists_per_row double precision;
BEGIN
    nearest_first := 'e.embedding <=> q.embedding';
    kept := CASE WHEN share < 1 THEN k + k / 4 ELSE k END;
    settings := '{enable_seqscan,off,enable_sort,off,jit,off}';
    CASE method
        WHEN 'hnsw' THEN
            at_ten := (search_settings ->> 'hnsw.ef_search')::integer;
            width := at_ten * (coalesce(at_hundred, at_ten + 180) / at_ten) ^ way + 2 * beyond_hundred;
            ef_search := greatest(width, deep);
            IF share < 1 THEN
                kept := greatest(kept, ceil(3 * (ef_search - largest_ef_search) * share));
            END IF;
        WHEN 'bit-hnsw' THEN
            nearest_first := format(
                'binary_quantize(e.embedding)::bit(%1$s) <~> binary_quantize(q.embedding)::bit(%1$s)', dim
            );
            at_ten := (search_settings ->> 'rerank')::integer;
            -- Rows of one rank by signs scatter over a number of rows that grows more slowly than the rank.
            width := at_ten * (coalesce(at_hundred / at_ten, 10 ^ 0.75)) ^ way * greatest(deep / 100, 1) ^ 0.75;
            kept := ceil(greatest(width * share, k + k / 4));
            ef_search := greatest(40, kept / share);
        WHEN 'ivfflat' THEN
            lists := (parameters ->> 'lists')::integer;
            lists_per_row := CASE WHEN share < 1 THEN 3 ELSE 1 END * lists::double precision / greatest(indexed, 1);
            at_ten := (search_settings ->> 'ivfflat.probes')::integer;
            width := at_ten * (coalesce(at_hundred / at_ten, 1 + 90 * lists_per_row)) ^ way
            + coalesce(at_hundred, at_ten) * beyond_hundred * lists_per_row;
            probes := CASE WHEN look_at IS NULL THEN least(greatest(round(width), 1), lists) ELSE 1 END;
            cost := 0.45 * indexed * probes / lists + 2.5 * kept / share;
            settings := settings || ARRAY[
                'ivfflat.probes', probes::text,
                'ivfflat.iterative_scan', 'relaxed_order',
                -- Every search sorts this many lists. Without a filter, the first lists hold enough rows.
                'ivfflat.max_probes', CASE WHEN share < 1 THEN lists ELSE least(4 * probes, lists) END::text
            ];
        ELSE
            RAISE EXCEPTION 'there is no index method "%"', method
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Methods: hnsw, bit-hnsw, ivfflat.';
    END CASE;
    IF ef_search IS NOT NULL THEN
        cost := 7 * kept / share;
        ef_search := CASE WHEN look_at IS NULL THEN ef_search ELSE greatest(look_at, 10) END;
    END IF;
    candidates := CASE
        WHEN look_at IS NOT NULL THEN look_at
        WHEN share < 1 THEN least(indexed + k, (1.5 + 5 / sqrt(kept)) * kept / share)
        ELSE kept
    END;
    IF ef_search IS NOT NULL THEN
        settings := settings || ARRAY[
            'hnsw.ef_search', least(ceil(ef_search), largest_ef_search)::integer::text,
            'hnsw.iterative_scan', 'relaxed_order',
            -- The walk visits many more rows than it returns, and needs memory to remember them.
            'hnsw.max_scan_tuples', least(greatest(20000, 40 * candidates::bigint), 2147483647)::text,
            'hnsw.scan_mem_multiplier', '4'
        ];
    END IF;
END
$$;

COMMENT ON FUNCTION cbir_internal.index_walk(
    text, jsonb, jsonb, bigint, integer, integer, double precision, integer
) IS
'Returns the plan of a walk through an index: sort expression, number of candidates, number to compare, settings,'
' cost.';
