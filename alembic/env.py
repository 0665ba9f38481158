"""Runs the migrations on the connection that ``cbirdb.db.schema.migrate`` hands over."""

from __future__ import annotations

from alembic import context

from cbirdb.db.schema.migrate import alembic_arguments

connection = context.config.attributes.get("connection")
if connection is None:
    raise SystemExit("Run migrations with `cbirdb db upgrade`, and make new ones with `make migration`.")
context.configure(connection=connection, **alembic_arguments())
context.run_migrations()
