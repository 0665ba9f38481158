"""Access, audit and erasure.

Revision: 0005, after 0004.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "dataset_access",
        sa.Column("role_name", sa.Text(), nullable=False, comment="A login, or a group role of a site."),
        sa.Column("dataset", sa.Text(), nullable=False, comment="A dataset's name; it need not be there yet."),
        sa.Column("granted_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("role_name", "dataset", name=op.f("dataset_access_pkey")),
        schema="cbir",
        comment="Which roles see which datasets while row-level security is on; without a row: none.",
    )
    op.create_table(
        "erasure_certificate",
        sa.Column("certificate_id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column(
            "pseudonym_sha256", sa.LargeBinary(), nullable=False, comment="Of dataset and pseudonym: see erasure_hash."
        ),
        sa.Column("erased_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("login", sa.Text(), nullable=False, comment="Who connected (session_user)."),
        sa.Column(
            "role", sa.Text(), nullable=False, comment="The role that acted: the one of SET ROLE, else the login."
        ),
        sa.Column(
            "removed",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="Rows removed, by table, and what was taken out of lists.",
        ),
        sa.Column(
            "to_run",
            sa.ARRAY(sa.Text()),
            nullable=False,
            comment="Statements that take the vectors out of files and indexes.",
        ),
        sa.PrimaryKeyConstraint("certificate_id", name=op.f("erasure_certificate_pkey")),
        schema="cbir",
        comment="What was erased, when and by whom; while it is here, the patient cannot be ingested again.",
    )
    op.create_index(
        op.f("erasure_certificate_pseudonym_sha256_idx"),
        "erasure_certificate",
        ["pseudonym_sha256"],
        unique=False,
        schema="cbir",
    )
    op.create_table(
        "search_audit",
        sa.Column("audit_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column(
            "searched_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("login", sa.Text(), nullable=False, comment="Who connected (session_user)."),
        sa.Column(
            "role", sa.Text(), nullable=False, comment="The role that acted: the one of SET ROLE, else the login."
        ),
        sa.Column(
            "purpose", sa.Text(), nullable=True, comment="Why, as the setting cbir.purpose said; NULL: not given."
        ),
        sa.Column(
            "function",
            sa.Text(),
            nullable=False,
            comment="Which search; setting: an administrator changed cbir.setting.",
        ),
        sa.Column("encoder", sa.Text(), nullable=True, comment="NULL: all."),
        sa.Column(
            "query_image_id",
            sa.BigInteger(),
            nullable=True,
            comment="NULL: a vector was given, or the image has been erased.",
        ),
        sa.Column("k", sa.Integer(), nullable=True),
        sa.Column(
            "filter", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("mode", sa.Text(), nullable=True, comment="exact or approximate."),
        sa.Column("returned", sa.ARRAY(sa.BigInteger()), nullable=False, comment="Images that were returned."),
        sa.Column(
            "erased_ids",
            sa.Integer(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Image ids taken out of this row because their patient was erased.",
        ),
        sa.CheckConstraint("erased_ids >= 0", name=op.f("search_audit_erased_ids_check")),
        sa.PrimaryKeyConstraint("audit_id", name=op.f("search_audit_pkey")),
        schema="cbir",
        comment="Who searched what, when and why, and which images were returned. Append only.",
    )
    op.create_table(
        "setting",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "changed_by", sa.Text(), server_default=sa.text("session_user"), nullable=False, comment="The login."
        ),
        sa.CheckConstraint("name IN ('audit', 'purpose_required', 'row_security')", name=op.f("setting_name_check")),
        sa.PrimaryKeyConstraint("name", name=op.f("setting_pkey")),
        schema="cbir",
        comment="What an administrator switches on and off; a setting of the server could be changed by everybody.",
    )
    op.create_table(
        "erased_image",
        sa.Column(
            "source_sha256", sa.LargeBinary(), nullable=False, comment="Of dataset and source: see erasure_hash."
        ),
        sa.Column("certificate_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["certificate_id"],
            ["cbir.erasure_certificate.certificate_id"],
            name=op.f("erased_image_certificate_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("source_sha256", name=op.f("erased_image_pkey")),
        schema="cbir",
        comment="Files of erased patients, so that a list that does not tell patients apart cannot bring them back.",
    )
    op.create_index(
        op.f("erased_image_certificate_id_idx"), "erased_image", ["certificate_id"], unique=False, schema="cbir"
    )
    op.add_column(
        "search_run",
        sa.Column(
            "erased_images",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Queries and indexed images erased since: the figures are no longer those of the run as it was made.",
        ),
        schema="cbir",
    )
    op.add_column(
        "search_run",
        sa.Column(
            "erased_neighbours",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Entries taken out of the lists of other queries since.",
        ),
        schema="cbir",
    )
    op.execute(
        "INSERT INTO cbir.setting (name, enabled) VALUES"
        " ('audit', TRUE), ('purpose_required', FALSE), ('row_security', FALSE)"
    )


def downgrade() -> None:
    raise NotImplementedError("cbirdb only goes forward; restore a backup to go back.")
