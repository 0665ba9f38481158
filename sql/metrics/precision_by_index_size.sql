-- Title: Precision at N against the size of the index
-- Description: Computes the precision that a run would have if only a random part of the images were indexed. It needs
--   only the stored neighbours: those of a list that lie in the part are, in the same order, the nearest of the part.
--   The parts are nested. They are drawn by dataset, file and seed, and so are the same in every database. A list of k
--   neighbours has about k * fraction in a part. If that is fewer than the first min(N, relevant images of the part),
--   the query's precision is not known. Such queries count as undetermined and do not enter the means. A larger k in
--   the evaluation makes them fewer.
-- Reference: the same as cbir.precision_by; precision against index size is in the paper's longer version.
-- Inputs: a finished run of a protocol with one label per image; fractions above 0 up to 1; values of N, up to the
--   run's k (NULL: 1, 3, 5, 10); a seed.
CREATE FUNCTION cbir.precision_by_index_size(
    run_id bigint,
    fractions double precision[] DEFAULT '{0.1, 0.2, 0.4, 0.6, 0.8, 1}',
    cutoffs integer[] DEFAULT NULL,
    seed bigint DEFAULT 0
)
RETURNS TABLE (
    fraction double precision,
    indexed_images bigint,
    n integer,
    micro_precision double precision,
    micro_std double precision,
    macro_precision double precision,
    macro_std double precision,
    queries bigint,
    classes bigint,
    undetermined bigint
)
LANGUAGE plpgsql
STABLE
SET search_path FROM CURRENT
-- The planner does not know how many rows functions return, and would scan them once for every query.
SET enable_nestloop = off
AS $$
#variable_conflict use_column
DECLARE
    boundary constant boolean := cbir_internal.inside_boundary();
    run constant cbir.search_run := cbir_internal.check_run(run_id);
BEGIN
    IF run.protocol <> 'paper' THEN
        RAISE EXCEPTION 'run % has protocol "%", which allows several labels per image', run.run_id, run.protocol
            USING ERRCODE = 'feature_not_supported', HINT = 'This function needs one label per image. Use a run of protocol "paper".';
    END IF;
    IF EXISTS (SELECT FROM unnest(fractions) AS f (part) WHERE f.part IS NULL OR f.part <= 0 OR f.part > 1) THEN
        RAISE EXCEPTION 'every fraction must be above 0 and at most 1' USING
            ERRCODE = 'invalid_parameter_value', HINT = 'For example: fractions => ''{0.1, 0.5, 1}''.';
    END IF;
    cutoffs := cbir_internal.checked_cutoffs('N', cutoffs, run.run_id);
    RETURN QUERY
    WITH part AS (SELECT DISTINCT f.part FROM unnest(precision_by_index_size.fractions) AS f (part)),
    member AS MATERIALIZED (
        -- The first 32 bits of an MD5 digest, as a number from 0 to 1.
        SELECT
            c.image_id, c.patient_id, c.label_ids[1] AS label_id,
            ('x' || left(md5(concat_ws('/', d.name, i.source, i.frame, precision_by_index_size.seed)), 8))
            ::bit(32)::bigint / 4294967296.0 AS position
        FROM cbir_internal.indexed_image(precision_by_index_size.run_id) AS c
        INNER JOIN cbir.image AS i ON i.image_id = c.image_id
        INNER JOIN cbir.dataset AS d ON d.dataset_id = i.dataset_id
    ),
    size AS (
        SELECT p.part, count(m.image_id) AS images
        FROM part AS p LEFT JOIN member AS m ON m.position < p.part
        GROUP BY p.part
    ),
    relevant AS (
        SELECT p.part, m.label_id, count(*) AS images
        FROM part AS p INNER JOIN member AS m ON m.position < p.part
        GROUP BY p.part, m.label_id
    ),
    result AS (
        SELECT r.query_image_id, r.label_id, r.neighbour_ids, r.hits, q.patient_id
        FROM cbir.search_result AS r INNER JOIN cbir.image AS q ON q.image_id = r.query_image_id
        WHERE r.run_id = precision_by_index_size.run_id AND r.relevant_count > 0
    ),
    -- Images that a query may not retrieve do not count as relevant for it: itself and, if the run excluded them,
    -- images of its patient.
    barred AS (
        SELECT pair.query_image_id, p.part, count(*) AS images
        FROM (
            SELECT r.query_image_id, m.position
            FROM result AS r INNER JOIN member AS m ON m.image_id = r.query_image_id AND m.label_id = r.label_id
            UNION ALL
            SELECT r.query_image_id, m.position
            FROM result AS r
            INNER JOIN member AS m
                ON m.patient_id = r.patient_id AND m.label_id = r.label_id AND m.image_id <> r.query_image_id
            WHERE NOT run.same_patient
        ) AS pair
        INNER JOIN part AS p ON pair.position < p.part
        GROUP BY pair.query_image_id, p.part
    ),
    listed AS (
        SELECT
            r.query_image_id, p.part,
            row_number() OVER in_part AS place,
            count(*) FILTER (WHERE r.hits[found.rank] > coalesce(r.hits[found.rank - 1], 0)) OVER in_part AS hits
        FROM result AS r
        CROSS JOIN LATERAL unnest(r.neighbour_ids) WITH ORDINALITY AS found (image_id, rank)
        INNER JOIN member AS m ON m.image_id = found.image_id
        INNER JOIN part AS p ON m.position < p.part
        WINDOW in_part AS (PARTITION BY r.query_image_id, p.part ORDER BY found.rank)
    ),
    list AS (
        SELECT l.query_image_id, l.part, array_agg(l.hits ORDER BY l.place) AS hits
        FROM listed AS l GROUP BY l.query_image_id, l.part
    ),
    -- Precision of the first min(N, relevant) of each query's list; NULL if the list is too short to know it.
    scored AS (
        SELECT
            a.part, a.n, a.label_id,
            CASE WHEN a.first <= a.known OR a.whole
                THEN coalesce(a.hits[least(a.first, a.known)], 0)::double precision / a.first
            END AS precision_at_n
        FROM (
            SELECT
                v.part, cutoff.n, r.label_id, l.hits,
                coalesce(cardinality(l.hits), 0) AS known,
                cardinality(r.neighbour_ids) < run.k AS whole,
                least(cutoff.n, v.images - coalesce(b.images, 0)) AS first
            FROM result AS r
            INNER JOIN relevant AS v ON v.label_id = r.label_id
            CROSS JOIN unnest(precision_by_index_size.cutoffs) AS cutoff (n)
            LEFT JOIN barred AS b ON b.query_image_id = r.query_image_id AND b.part = v.part
            LEFT JOIN list AS l ON l.query_image_id = r.query_image_id AND l.part = v.part
        ) AS a
        WHERE a.first > 0
    ),
    of_class AS (
        SELECT
            s.part, s.n, s.label_id, count(s.precision_at_n) AS queries, avg(s.precision_at_n) AS mean,
            stddev_samp(s.precision_at_n) AS deviation
        FROM scored AS s GROUP BY s.part, s.n, s.label_id
    ),
    of_part AS (
        SELECT
            s.part, s.n, count(s.precision_at_n) AS queries, avg(s.precision_at_n) AS mean,
            stddev_samp(s.precision_at_n) AS deviation, count(*) FILTER (WHERE s.precision_at_n IS NULL) AS undetermined
        FROM scored AS s GROUP BY s.part, s.n
    )
    SELECT
        o.part, z.images, o.n, o.mean, o.deviation, avg(c.mean), avg(c.deviation), o.queries, count(c.mean),
        o.undetermined
    FROM of_part AS o
    INNER JOIN size AS z ON z.part = o.part
    INNER JOIN of_class AS c ON c.part = o.part AND c.n = o.n
    GROUP BY o.part, z.images, o.n, o.mean, o.deviation, o.queries, o.undetermined
    ORDER BY o.part, o.n;
END
$$;

COMMENT ON FUNCTION cbir.precision_by_index_size(bigint, double precision[], integer[], bigint) IS
'Computes micro and macro precision at N of a run as they would be with random parts of its index.';
