-- Title: Create the roles of cbirdb, as a database administrator
-- Description: Creates group roles without a login. The login of a person or a program becomes a member of one:
--     GRANT cbir_reader TO radiology_app;
--   Roles belong to the whole cluster. Run this once, as a superuser or a role with CREATEROLE, before or after
--   `cbirdb db upgrade`, which grants in its database the rights that each role needs. It is safe to repeat.
--     cbir_reader    searches and reads everything but the audit; under row-level security only its own datasets
--     cbir_ingest    also loads images, labels and embeddings
--     cbir_admin     owns the schema: upgrades, indexes, evaluates, drops, erases, switches settings
--     cbir_auditor   reads the audit of searches and the certificates of erasure; nothing else
--     cbir_search    owns the functions and views that readers use; only the schema's owner is a member
--   If another role than cbir_admin owns the schema, that role needs the last grant too:
--     GRANT cbir_search TO the_owner WITH INHERIT FALSE, SET TRUE;
DO $$
DECLARE
    wanted record;
BEGIN
    FOR wanted IN
        SELECT *
        FROM (
            VALUES
            ('cbir_reader', 'cbirdb: searches and reads.', NULL),
            ('cbir_ingest', 'cbirdb: brings in images, labels and embeddings.', 'cbir_reader'),
            ('cbir_admin', 'cbirdb: owns the schema, indexes, evaluates, drops and erases.', 'cbir_ingest'),
            ('cbir_auditor', 'cbirdb: reads the audit of searches and the certificates of erasure.', NULL),
            ('cbir_search', 'cbirdb: owns the functions and views that readers use.', NULL)
        ) AS roles (name, description, includes)
    LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles AS r WHERE r.rolname = wanted.name) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', wanted.name);
            EXECUTE format('COMMENT ON ROLE %I IS %L', wanted.name, wanted.description);
        END IF;
        IF wanted.includes IS NOT NULL AND NOT pg_has_role(wanted.name, wanted.includes, 'USAGE') THEN
            EXECUTE format('GRANT %I TO %I', wanted.includes, wanted.name);
        END IF;
    END LOOP;
    -- SET lets the owner hand functions and views over to cbir_search. Without INHERIT nobody else has its rights.
    IF NOT pg_has_role('cbir_admin', 'cbir_search', 'SET') OR pg_has_role('cbir_admin', 'cbir_search', 'USAGE') THEN
        GRANT cbir_search TO cbir_admin WITH INHERIT FALSE, SET TRUE;
    END IF;
END
$$;
