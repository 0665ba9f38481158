#!/bin/bash
# Runs once, when the data folder is empty: what needs a superuser happens here and never again.
# The extension, the group roles, the owner (no superuser) and the database; the schema is the owner's to make.
set -euo pipefail

password=$(cat "${CBIRDB_PASSWORD_FILE:?names the file with the password of role cbirdb}")
export password # psql reads it with \getenv, so that it stands neither in the arguments nor in this file

run() { psql -X -q -v ON_ERROR_STOP=1 -U "${POSTGRES_USER:-postgres}" --no-password "$@"; }

run -d postgres <<'SQL'
\getenv password password
SET log_statement = 'none';
SET log_min_error_statement = 'panic';
CREATE ROLE cbirdb LOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB PASSWORD :'password';
CREATE DATABASE cbirdb OWNER cbirdb;
REVOKE ALL ON DATABASE cbirdb FROM PUBLIC;
SQL

run -d cbirdb -f /etc/cbirdb/roles.sql

run -d cbirdb <<'SQL'
CREATE EXTENSION vector;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT CONNECT, TEMPORARY ON DATABASE cbirdb TO cbir_reader, cbir_ingest, cbir_admin, cbir_auditor;
-- The owner grants its tables to the groups; the groups' members are logins that a DBA creates.
GRANT pg_read_all_stats TO cbirdb;
SQL
