"""Talks to PostgreSQL: connections, the embedded server, migrations, COPY and index DDL."""
