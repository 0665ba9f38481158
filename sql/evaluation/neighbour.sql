-- Title: Stored neighbours, one row each
-- Description: Lists the images that a run found: for each query its nearest images in order. cbir.search_result stores
--   them as arrays, which take a sixth of the space of rows.
CREATE VIEW cbir.neighbour WITH (security_invoker = TRUE) AS
SELECT
    r.run_id,
    r.query_image_id,
    found.rank::integer AS rank,
    found.image_id,
    r.distances[found.rank] AS distance,
    r.hits[found.rank] > coalesce(r.hits[found.rank - 1], 0) AS relevant
FROM cbir.search_result AS r
CROSS JOIN LATERAL unnest(r.neighbour_ids) WITH ORDINALITY AS found (image_id, rank);

COMMENT ON VIEW cbir.neighbour IS
'Lists the nearest images of each query of a run, one row per neighbour, with cosine distance and relevance.';
