"""Change no table: functions move to schema cbir_internal, so triggers are made anew.

Revision: 0009, after 0008.
"""

from __future__ import annotations

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Do nothing; that a migration is pending lets the upgrade drop triggers together with their functions."""


def downgrade() -> None:
    raise NotImplementedError("cbirdb only goes forward; restore a backup to go back.")
