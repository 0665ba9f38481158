"""encoder records and golden embeddings

Revision: 0002, after 0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "encoder_record",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("spec", postgresql.JSONB(astext_type=sa.Text()), nullable=False, comment="As in encoder.spec."),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("encoder_record_pkey")),
        schema="cbir",
        comment="Encoders added to those that ship with cbirdb; a row of encoder is made when one is first used.",
    )
    op.add_column(
        "encoder",
        sa.Column(
            "golden_embedding",
            sa.ARRAY(sa.REAL()),
            nullable=True,
            comment="Unit vector of one fixed picture when the encoder was first used; NULL: imported, not computed.",
        ),
        schema="cbir",
    )


def downgrade() -> None:
    raise NotImplementedError("cbirdb only goes forward; restore a backup to go back.")
