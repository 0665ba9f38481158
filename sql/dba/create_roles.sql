-- Title: Group roles
-- Description: What logins of a hospital are made members of. A DBA runs this once per server, as a role that may
--   create roles; again, it changes nothing. What each may do in schema cbir is granted by the schema's owner.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['cbir_reader', 'cbir_ingest', 'cbir_admin', 'cbir_auditor'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', name);
        END IF;
    END LOOP;
END
$$;
