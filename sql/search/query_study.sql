-- Title: Find the study that a search starts from
-- Description: Returns the id of the query study. A study instance UID is unique within a dataset. If several datasets
--   have the UID, the function refuses it and lists the ids to choose from. Neither message nor hint quotes a UID,
--   because servers log errors.
-- Inputs: a study instance UID, or the id of a study.
CREATE FUNCTION cbir_internal.query_study(study_uid text, study_id bigint)
RETURNS bigint
LANGUAGE plpgsql
STABLE
SET search_path FROM CURRENT
AS $$
DECLARE
    given constant integer := num_nonnulls(study_uid, study_id);
    found bigint[];
BEGIN
    IF given <> 1 THEN
        RAISE EXCEPTION 'give exactly one of study_uid and study_id, not %', CASE given WHEN 0 THEN 'none' ELSE 'both' END
            USING ERRCODE = 'invalid_parameter_value',
            HINT = 'For example: study_uid => ''1.2.3''; NULL counts as not given.';
    END IF;
    found := ARRAY(
        SELECT st.study_id FROM cbir.study AS st
        WHERE st.study_uid = query_study.study_uid OR st.study_id = query_study.study_id ORDER BY 1
    );
    IF cardinality(found) = 0 THEN
        RAISE EXCEPTION 'there is no such study' USING
            ERRCODE = 'no_data_found',
            HINT = format(
                'There are %s studies; their UIDs are the column study_uid of cbir.image_overview.', (SELECT count(*) FROM cbir.study)
            );
    ELSIF cardinality(found) > 1 THEN
        RAISE EXCEPTION '% studies have this study instance UID', cardinality(found) USING
            ERRCODE = 'cardinality_violation',
            HINT = 'Give study_id => one of ' || cbir_internal.listed(ARRAY(
                SELECT format('%s (dataset %s)', st.study_id, d.name)
                FROM cbir.study AS st INNER JOIN cbir.dataset AS d ON d.dataset_id = st.dataset_id
                WHERE st.study_id = ANY (found) ORDER BY st.study_id
            )) || '.';
    END IF;
    RETURN found[1];
END
$$;

COMMENT ON FUNCTION cbir_internal.query_study(text, bigint) IS
'Returns the id of the study that a search starts from.';
