"""Index methods and their audits; indexes on what searches filter by.

Revision: 0004, after 0003.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table, column in (
        ("image", "modality"),
        ("image", "anatomic_region"),
        ("image", "split"),
        ("study", "study_date"),
    ):
        op.create_index(op.f(f"{table}_{column}_idx"), table, [column], unique=False, schema="cbir")
    op.alter_column(
        "index_build",
        "method",
        existing_type=sa.Text(),
        existing_nullable=False,
        comment="hnsw, bit-hnsw or ivfflat.",
        existing_comment="hnsw",
        schema="cbir",
    )
    op.alter_column(
        "index_build",
        "search_settings",
        existing_type=postgresql.JSONB(),
        existing_nullable=False,
        comment="What searches for ten start from, see cbir.index_walk.",
        existing_comment="What searches set, such as hnsw.ef_search.",
        schema="cbir",
    )
    op.add_column(
        "index_build",
        sa.Column(
            "choice",
            postgresql.JSONB(),
            nullable=True,
            comment="What was measured on a sample when the method was chosen by itself.",
        ),
        schema="cbir",
    )
    op.add_column(
        "search_run",
        sa.Column(
            "ann_zeros",
            sa.BigInteger(),
            nullable=True,
            comment="Of these queries, those for which no true nearest neighbour was found.",
        ),
        schema="cbir",
    )
    op.add_column(
        "search_run",
        sa.Column(
            "index_audit",
            postgresql.JSONB(),
            nullable=True,
            comment="The audit of the index, as it was when the run was made.",
        ),
        schema="cbir",
    )
    op.add_column(
        "search_run",
        sa.Column(
            "not_final",
            sa.Text(),
            nullable=True,
            comment="Why its figures are not to be relied on; NULL: they may be.",
        ),
        schema="cbir",
    )


def downgrade() -> None:
    raise NotImplementedError("cbirdb only goes forward; restore a backup to go back.")
