"""Move internal functions to schema cbir_internal: triggers are made anew, and comments say what they describe.

Revision: 0009, after 0008.
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

COMMENTS = (
    (
        "TABLE cbir.dataset_access",
        "Datasets that each role sees while row-level security is on; a role without a row sees none.",
    ),
    (
        "TABLE cbir.erasure_certificate",
        "Certificates of erasure: content, time and role. While one is here, its patient cannot be ingested again.",
    ),
    (
        "COLUMN cbir.search_audit.function",
        "Name of the search function; setting: an administrator changed cbir.setting.",
    ),
    (
        "TABLE cbir.setting",
        "Switches of an administrator; everybody could change a setting of the server.",
    ),
    (
        "TABLE cbir.sql_object",
        "Objects that the last upgrade made from sql/ and the next one drops; others in the schemas stay.",
    ),
    (
        "TABLE cbir.failure",
        "Files that could not be ingested or encoded, with reason and number of times.",
    ),
    (
        "COLUMN cbir.failure.occurrences",
        "Number of times it was met.",
    ),
    (
        "COLUMN cbir.index_build.parameters",
        "Parameters of the build, such as m and ef_construction.",
    ),
    (
        "COLUMN cbir.index_build.search_settings",
        "Settings that searches for ten start from, see cbir_internal.index_walk.",
    ),
    (
        "COLUMN cbir.index_build.choice",
        "Measurements on a sample, if the method was chosen automatically.",
    ),
    (
        "COLUMN cbir.search_run.protocol",
        "Images that count and the meaning of relevant, in words.",
    ),
    (
        "COLUMN cbir.search_run.same_patient",
        "True if a query may retrieve images of its own patient.",
    ),
    (
        "COLUMN cbir.image.view",
        "View of the picture: PA, AP, lateral, ...",
    ),
    (
        "COLUMN cbir.image.damage",
        "Damage that a decoder reported of an accepted image; NULL: none.",
    ),
    (
        "TABLE cbir.image_label",
        "Labels of images, with their values.",
    ),
)


def upgrade() -> None:
    """Change comments. That a migration is pending lets the upgrade drop triggers together with their functions."""
    for described, comment in COMMENTS:
        op.execute(f"COMMENT ON {described} IS '{comment}'")


def downgrade() -> None:
    raise NotImplementedError("cbirdb only goes forward; restore a backup to go back.")
