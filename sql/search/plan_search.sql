-- Title: Plan a search under a filter
-- Description: Weighs a walk through the index against comparing every match exactly. It reads no table. The more
--   images match, the less a walk costs and the more a scan: the scan costs no more up to
--   sqrt(matches * cost of the walk), both in units of one exact comparison (see index_walk). Between this number and
--   eight times as many, or from 5,000 matches on, a short look at the nearest candidates pays: it says whether
--   matches lie near the query. It looks at so many that 98 of 100 queries meet a match if matches are spread evenly
--   (four expected: 1 - exp(-4)).
-- Inputs: method, parameters and search_settings as in cbir.index_build; rows in the index; the vectors' dimension;
--   neighbours wanted; about how many images match.
-- Returns: the share of the rows that match; the number of matches up to which comparing them exactly costs no more
--   than the walk; how many candidates to look at first, NULL: none.
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
    -- Comparing so many takes several times as long as a short look.
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
'Says up to how many matches an exact comparison is cheaper than a walk, and how many candidates to look at first.';
