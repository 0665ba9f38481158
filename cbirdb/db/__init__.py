"""Everything that talks to PostgreSQL: connections, the embedded server, migrations, COPY and index DDL."""
