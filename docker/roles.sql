-- The group roles, and what the owner of schema cbir needs of them. The first start runs it; after an update of cbirdb a
-- DBA runs it again, as docs/operations.md shows. Safe to repeat.
\set ON_ERROR_STOP on
\i /usr/local/share/cbirdb/dba/create_roles.sql
-- `cbirdb db upgrade` hands public functions and views over to this role, as the owner, who is cbirdb here.
GRANT cbir_search TO cbirdb WITH INHERIT FALSE, SET TRUE;
