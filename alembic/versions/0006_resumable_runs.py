"""Evaluation runs that are resumed.

Revision: 0006, after 0005.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "search_run",
        sa.Column(
            "fingerprint",
            sa.Text(),
            nullable=True,
            comment="Of the images, patients, labels and embeddings that took part: a dead run is resumed while it is the same.",
        ),
        schema="cbir",
    )


def downgrade() -> None:
    raise NotImplementedError("cbirdb only goes forward; restore a backup to go back.")
