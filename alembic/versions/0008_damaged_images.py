"""Add what a decoder reported of images that were taken although they are damaged.

Revision: 0008, after 0007.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "image",
        sa.Column(
            "damage",
            sa.Text(),
            nullable=True,
            comment="What a decoder reported of an image taken although damaged; NULL: nothing.",
        ),
        schema="cbir",
    )


def downgrade() -> None:
    raise NotImplementedError("cbirdb only goes forward; restore a backup to go back.")
