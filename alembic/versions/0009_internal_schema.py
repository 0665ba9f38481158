"""Move internal functions to schema cbir_internal: triggers are made anew, and a comment names the new place.

Revision: 0009, after 0008.
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Change one comment. That a migration is pending lets the upgrade drop triggers together with their functions."""
    op.execute(
        "COMMENT ON COLUMN cbir.index_build.search_settings IS"
        " 'What searches for ten start from, see cbir_internal.index_walk.'"
    )


def downgrade() -> None:
    raise NotImplementedError("cbirdb only goes forward; restore a backup to go back.")
