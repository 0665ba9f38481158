"""The images of a label from its index alone.

Revision: 0007, after 0006.
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index(op.f("image_label_label_id_idx"), table_name="image_label", schema="cbir")
    op.create_index(
        op.f("image_label_label_id_idx"),
        "image_label",
        ["label_id"],
        unique=False,
        schema="cbir",
        postgresql_include=["image_id", "value"],
    )


def downgrade() -> None:
    raise NotImplementedError("cbirdb only goes forward; restore a backup to go back.")
