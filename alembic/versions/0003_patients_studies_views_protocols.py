"""Patients, studies and views of the official datasets; protocols of evaluation.

Revision: 0003, after 0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "pseudonym_key",
        sa.Column(
            "fingerprint", sa.Text(), nullable=False, comment="Tells the key from others without giving it away."
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name=op.f("pseudonym_key_pkey")),
        schema="cbir",
        comment="With which key patient.pseudonym was made: at most one row. The key itself is not in the database.",
    )
    op.create_table(
        "search_result_label",
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("query_image_id", sa.BigInteger(), nullable=False),
        sa.Column("label_id", sa.BigInteger(), nullable=False, comment="One of the query's."),
        sa.Column("relevant_count", sa.Integer(), nullable=False, comment="Indexed images that carry this label."),
        sa.Column(
            "hits",
            sa.ARRAY(sa.SmallInteger()),
            nullable=False,
            comment="hits[n]: carriers of this label among the first n.",
        ),
        sa.ForeignKeyConstraint(["label_id"], ["cbir.label.label_id"], name=op.f("search_result_label_label_id_fkey")),
        sa.ForeignKeyConstraint(
            ["run_id", "query_image_id"],
            ["cbir.search_result.run_id", "cbir.search_result.query_image_id"],
            name=op.f("search_result_label_run_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("run_id", "query_image_id", "label_id", name=op.f("search_result_label_pkey")),
        schema="cbir",
        comment="The same neighbours, looked at for each label of a query that may have several.",
    )
    op.add_column(
        "image",
        sa.Column("view", sa.Text(), nullable=True, comment="How the picture was taken: PA, AP, lateral, ..."),
        schema="cbir",
    )
    op.add_column(
        "patient", sa.Column("sex", sa.Text(), nullable=True, comment="F, M or O; NULL: not given."), schema="cbir"
    )
    op.create_check_constraint(op.f("patient_sex_check"), "patient", "sex IN ('F', 'M', 'O')", schema="cbir")
    op.alter_column(
        "search_result",
        "label_id",
        existing_type=sa.BIGINT(),
        nullable=True,
        comment="The query's label; NULL where it may have several: search_result_label has those.",
        existing_comment="The query's label.",
        schema="cbir",
    )
    op.alter_column(
        "search_result",
        "relevant_count",
        existing_type=sa.INTEGER(),
        comment="Indexed images that are relevant for the query.",
        existing_comment="Indexed images that carry the query's label.",
        existing_nullable=False,
        schema="cbir",
    )
    op.add_column(
        "search_run",
        sa.Column(
            "definition", sa.Text(), nullable=True, comment="The protocol in words, as it was when the run was made."
        ),
        schema="cbir",
    )
    op.add_column(
        "search_run",
        sa.Column(
            "split_seed",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Of splits that are drawn.",
        ),
        schema="cbir",
    )
    op.add_column(
        "search_run",
        sa.Column(
            "same_patient",
            sa.Boolean(),
            server_default=sa.text("true"),
            nullable=False,
            comment="Whether a query may retrieve images of its own patient.",
        ),
        schema="cbir",
    )
    op.add_column(
        "study",
        sa.Column(
            "age_years",
            sa.SmallInteger(),
            nullable=True,
            comment="The patient's age at that time; NULL: not given, or not credible.",
        ),
        schema="cbir",
    )


def downgrade() -> None:
    raise NotImplementedError("cbirdb only goes forward; restore a backup to go back.")
