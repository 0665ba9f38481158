-- Title: Plan a search under a filter
-- Description: Compares the cost of a walk through the index with that of comparing every match exactly. It reads no
--   table. The more images match, the less a walk costs and the more a scan. The scan costs no more than the walk up to
--   sqrt(matches * cost of the walk) matches, both costs in units of one exact comparison (see index_walk). Above this
--   number (or above 5,000 matches, if that is less), and up to eight times this number, a short look at the nearest
--   candidates pays: it tells whether matches lie near the query. The look covers so many candidates that, if matches
--   are spread evenly, 98 of 100 queries meet a match (four expected: 1 - exp(-4)).
-- Inputs: method, parameters and search_settings as in cbir.index_build; number of rows in the index; dimension of the
--   vectors; k; estimated number of matches.
-- Returns: share, the share of the rows that match; exact_up_to, the number of matches up to which the scan costs no
--   more than the walk; look_at, the number of candidates to look at first (NULL: no look).
CREATE FUNCTION cbir_internal.plan_search(
    method text,
    parameters jsonb,
    search_settings jsonb,
    indexed bigint,
    dim integer,
    k integer,
    matches double precision,
    OUT share double precision,
    OUT exact_up_to bigint,
    OUT look_at integer
)
LANGUAGE plpgsql
IMMUTABLE
SET search_path FROM CURRENT
AS $$
DECLARE
    expected_matches constant integer := 4;
    -- Comparing this many takes several times as long as a short look.
    worth_a_look constant integer := 5000;
    walk_cost double precision;
BEGIN
    share := least(matches / greatest(indexed, 1), 0.9999);
    walk_cost := (cbir_internal.index_walk(method, parameters, search_settings, indexed, dim, k, share)).cost;
    exact_up_to := ceil(sqrt(matches * walk_cost));
    IF matches > least(exact_up_to, worth_a_look) AND matches <= 8 * exact_up_to THEN
        look_at := ceil(expected_matches / share);
    END IF;
END
$$;

COMMENT ON FUNCTION cbir_internal.plan_search(text, jsonb, jsonb, bigint, integer, integer, double precision) IS
'Returns the number of matches up to which an exact comparison is cheaper than a walk, and the number of candidates'
' to look at first.';
