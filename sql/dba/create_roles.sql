-- Title: The roles of cbirdb, for a database administrator
-- Description: Group roles without a login; a person's or a program's login becomes a member of one:
--     GRANT cbir_reader TO radiology_app;
--   They belong to the whole cluster. Run it once, as a superuser or a role with CREATEROLE, before or after
--   `cbirdb db upgrade`, which grants in its database what each role needs. Safe to repeat.
--     cbir_reader    searches and reads everything but the audit; with row-level security: of its datasets
--     cbir_ingest    also brings in images, labels and embeddings
--     cbir_admin     owns the schema: upgrades, indexes, evaluates, drops, erases, switches
--     cbir_auditor   reads who searched what, and the certificates of erasure; nothing else
--     cbir_search    owns the functions and views that readers use; it has no members but the schema's owner
--   Where another role than cbir_admin owns the schema, that role needs the last grant too:
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
    -- SET lets the owner hand functions and views over to it; without INHERIT its rights are nobody else's.
    IF NOT pg_has_role('cbir_admin', 'cbir_search', 'SET') OR pg_has_role('cbir_admin', 'cbir_search', 'USAGE') THEN
        GRANT cbir_search TO cbir_admin WITH INHERIT FALSE, SET TRUE;
    END IF;
END
$$;
