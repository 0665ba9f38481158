-- Title: Note a search in the audit log
-- Description: Called once by every public search function, with what it returns. Does nothing yet: there is no log.
-- Inputs: the function, its encoder (NULL: all), the query image (NULL: a vector), k, the filter, how it was answered,
--   and the ids of the images that were returned.
CREATE FUNCTION cbir.record_search(
    function_name text,
    encoder text,
    query_image_id bigint,
    k integer,
    filter cbir.image_filter,
    mode text,
    returned bigint[]
)
RETURNS void
LANGUAGE sql
AS $$
SELECT
$$;

COMMENT ON FUNCTION cbir.record_search(text, text, bigint, integer, cbir.image_filter, text, bigint[]) IS
'Notes a search; does nothing yet.';
