-- Title: Precision at N with and without leakage
-- Description: Computes three variants from the same stored neighbours. 'all' is cbir.precision_by_run. 'without
--   touched queries' covers only the queries that no indexed image gives away. 'without leaking images' covers all
--   queries, as if the images that give a query away were not indexed for it: they are removed from its list and from
--   the count of relevant images. If a list is then too short, the query counts as undetermined and does not enter the
--   means.
-- Reference: the same as cbir.precision_by; cbir.leaking_image defines leakage.
-- Inputs: a finished run; the largest cosine distance that counts as nearly identical; values of N, up to the run's k
--   (NULL: 1, 3, 5, 10).
CREATE FUNCTION cbir.precision_without_leakage(
    run_id bigint, near_distance double precision DEFAULT 0.001, cutoffs integer[] DEFAULT NULL
)
RETURNS TABLE (
    variant text,
    n integer,
    micro_precision double precision,
    macro_precision double precision,
    queries bigint,
    classes bigint,
    undetermined bigint
)
LANGUAGE plpgsql
STABLE
SET search_path FROM CURRENT
-- The planner does not know how many images leak, and would scan all of them once for every query.
SET enable_nestloop = off
AS $$
#variable_conflict use_column
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
    asked constant cbir.search_run := cbir_internal.check_run(run_id);
BEGIN
    RETURN QUERY
    WITH run AS (SELECT r.* FROM cbir.search_run AS r WHERE r.run_id = $1),
    leaking AS MATERIALIZED (
        SELECT DISTINCT ON (l.query_image_id, l.image_id) l.query_image_id, l.image_id, l.label_ids
        FROM cbir.leaking_image($1, $2) AS l
        ORDER BY l.query_image_id, l.image_id
    ),
    -- One list per query for the mean over queries, and one per query and label for the mean over classes. Under a
    -- protocol with one label both are the same. Each list holds its labels that count as relevant.
    each_list AS (
        SELECT
            r.query_image_id, r.label_id, r.relevant_count, r.neighbour_ids, r.hits, TRUE AS is_micro,
            r.label_id IS NOT NULL AS is_macro,
            CASE WHEN r.label_id IS NOT NULL THEN ARRAY[r.label_id] ELSE p.label_ids END AS wanted
        FROM cbir.search_result AS r
        LEFT JOIN LATERAL (
            SELECT array_agg(il.label_id) AS label_ids
            FROM cbir.search_result_label AS il
            WHERE il.run_id = r.run_id AND il.query_image_id = r.query_image_id
        ) AS p ON r.label_id IS NULL
        WHERE r.run_id = $1
        UNION ALL
        SELECT
            s.query_image_id, s.label_id, s.relevant_count, r.neighbour_ids, s.hits, FALSE, TRUE, ARRAY[s.label_id]
        FROM cbir.search_result_label AS s
        INNER JOIN cbir.search_result AS r ON r.run_id = s.run_id AND r.query_image_id = s.query_image_id
        WHERE s.run_id = $1
    ),
    list AS MATERIALIZED (SELECT row_number() OVER () AS list_id, e.* FROM each_list AS e),
    leak AS (
        SELECT l.list_id, array_agg(k.image_id) AS ids, count(*) FILTER (WHERE k.label_ids && l.wanted) AS relevant
        FROM list AS l
        INNER JOIN leaking AS k ON k.query_image_id = l.query_image_id
        GROUP BY l.list_id
    ),
    touched AS (
        SELECT l.*, coalesce(leak.ids, '{}') AS leaking_ids, coalesce(leak.relevant, 0) AS leaking_relevant
        FROM list AS l
        LEFT JOIN leak ON leak.list_id = l.list_id
    ),
    variant AS (
        SELECT 1 AS place, 'all' AS name, t.relevant_count, t.hits, t.is_micro, t.is_macro, t.label_id, t.neighbour_ids
        FROM touched AS t
        UNION ALL
        SELECT 2, 'without touched queries', t.relevant_count, t.hits, t.is_micro, t.is_macro, t.label_id, t.neighbour_ids
        FROM touched AS t
        WHERE t.leaking_ids = '{}'
        UNION ALL
        SELECT
            3, 'without leaking images', (t.relevant_count - t.leaking_relevant)::integer,
            CASE WHEN t.leaking_ids = '{}' THEN t.hits ELSE kept.hits END,
            t.is_micro, t.is_macro, t.label_id, t.neighbour_ids
        FROM touched AS t
        LEFT JOIN LATERAL (
            SELECT array_agg(left_over.hits ORDER BY left_over.rank)::smallint[] AS hits
            FROM (
                SELECT
                    found.rank,
                    count(*) FILTER (WHERE t.hits[found.rank] > coalesce(t.hits[found.rank - 1], 0))
                        OVER (ORDER BY found.rank) AS hits
                FROM unnest(t.neighbour_ids) WITH ORDINALITY AS found (image_id, rank)
                WHERE found.image_id <> ALL(t.leaking_ids)
            ) AS left_over
        ) AS kept ON t.leaking_ids <> '{}'
    ),
    scored AS (
        SELECT
            v.place, v.name, cutoff.n, v.label_id, v.is_micro, v.is_macro,
            CASE
                WHEN
                    least(cutoff.n, v.relevant_count) <= coalesce(cardinality(v.hits), 0)
                    OR cardinality(v.neighbour_ids) < run.k
                    OR v.place < 3
                    THEN cbir_internal.modified_precision(coalesce(v.hits, '{}'), cutoff.n, v.relevant_count)
            END AS precision_at_n
        FROM variant AS v
        CROSS JOIN run
        CROSS JOIN unnest(cbir_internal.checked_cutoffs('N', $3, $1)) AS cutoff (n)
        WHERE v.relevant_count > 0
    ),
    of_class AS (
        SELECT s.place, s.n, s.label_id, avg(s.precision_at_n) AS mean
        FROM scored AS s WHERE s.is_macro GROUP BY s.place, s.n, s.label_id
    ),
    macro AS (
        SELECT c.place, c.n, avg(c.mean) AS mean, count(c.mean) AS classes FROM of_class AS c GROUP BY c.place, c.n
    )
    SELECT
        s.name, s.n, avg(s.precision_at_n), m.mean, count(s.precision_at_n), m.classes,
        count(*) FILTER (WHERE s.precision_at_n IS NULL)
    FROM scored AS s
    INNER JOIN macro AS m ON m.place = s.place AND m.n = s.n
    WHERE s.is_micro
    GROUP BY s.place, s.name, s.n, m.mean, m.classes
    ORDER BY s.place, s.n;
END
$$;

COMMENT ON FUNCTION cbir.precision_without_leakage(bigint, double precision, integer[]) IS
'Computes P@N of a run over all queries, over those that nothing gives away, and with the leaking images removed from'
' the index.';
