"""Roles known by name and OID, names of encoders and of their tables constrained.

Revision: 0007, after 0006.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

NAME = "^[a-z0-9.-]{1,40}(@[0-9a-f]{8})?$"


def upgrade() -> None:
    op.add_column(
        "dataset_access",
        sa.Column(
            "role_oid",
            postgresql.OID(),
            nullable=True,
            comment="Of the role when the row was made; the row counts only while name and OID are of one role.",
        ),
        schema="cbir",
    )
    op.execute(
        "UPDATE cbir.dataset_access AS a SET role_oid = r.oid FROM pg_catalog.pg_roles AS r WHERE r.rolname = a.role_name"
    )
    # Names were free in case and punctuation before; their tables' names, which were made of them, stay the same.
    for table in ("encoder", "encoder_record"):
        op.execute(
            f"UPDATE cbir.{table} SET name = regexp_replace(lower(name), '[^a-z0-9.-]+', '-', 'g')"  # noqa: S608
            f" WHERE name !~ '{NAME}'"
        )
    op.execute(
        "UPDATE cbir.encoder_record SET spec = jsonb_set(spec, '{name}', to_jsonb(name))"
        " WHERE spec ->> 'name' IS DISTINCT FROM name"
    )
    op.create_check_constraint(op.f("encoder_name_check"), "encoder", f"name ~ '{NAME}'", schema="cbir")
    op.create_check_constraint(
        op.f("encoder_table_name_check"),
        "encoder",
        "table_name = 'embedding_' || btrim(regexp_replace(name, '[^a-z0-9]+', '_', 'g'), '_')"
        " AND table_name ~ '^embedding_[a-z0-9]'",
        schema="cbir",
    )
    op.create_check_constraint(op.f("encoder_record_name_check"), "encoder_record", f"name ~ '{NAME}'", schema="cbir")


def downgrade() -> None:
    raise NotImplementedError("cbirdb only goes forward; restore a backup to go back.")
