"""Add linear probes, with the classes that they can predict and their predictions.

Revision: 0011, after 0010.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "probe_run",
        sa.Column("probe_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("encoder_id", sa.BigInteger(), nullable=False),
        sa.Column("datasets", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("split_seed", sa.BigInteger(), nullable=False, comment="Of splits that are drawn."),
        sa.Column("same_patient", sa.Boolean(), nullable=False, comment="True if shared_patient_images took part."),
        sa.Column("criterion", sa.Text(), nullable=False, comment="Figure of the val images by which c was chosen."),
        sa.Column(
            "c", sa.Double(), nullable=False, comment="Inverse strength of the regularisation, as in scikit-learn."
        ),
        sa.Column(
            "candidates",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="Each c that was tried: its figures on the val images, its iterations, and if it converged.",
        ),
        sa.Column("train_images", sa.BigInteger(), nullable=False),
        sa.Column("val_images", sa.BigInteger(), nullable=False),
        sa.Column("test_images", sa.BigInteger(), nullable=False),
        sa.Column(
            "left_out", sa.BigInteger(), nullable=False, comment="Images of the splits with no or several labels."
        ),
        sa.Column(
            "not_encoded", sa.BigInteger(), nullable=False, comment="Images that have no embedding of this encoder."
        ),
        sa.Column(
            "shared_patient_images",
            sa.BigInteger(),
            nullable=False,
            comment="Train and val images whose patient has images in a later split, of train, val and test.",
        ),
        sa.Column(
            "not_final", sa.Text(), nullable=True, comment="Why its figures are not to be relied on; NULL: they may be."
        ),
        sa.Column(
            "erased_images",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Test images erased since: the figures are no longer those of the probe as it was made.",
        ),
        sa.Column(
            "erased_fitted_images",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Train and val images erased since: the predictions still rest on them.",
        ),
        sa.Column(
            "merged_images",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Images whose patient was merged into another since.",
        ),
        sa.Column(
            "fingerprint",
            sa.Text(),
            nullable=False,
            comment="Of the images, patients, labels and embeddings it rests on.",
        ),
        sa.Column("versions", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("criterion IN ('balanced_accuracy', 'accuracy')", name=op.f("probe_run_criterion_check")),
        sa.CheckConstraint("c > 0", name=op.f("probe_run_c_check")),
        sa.ForeignKeyConstraint(
            ["encoder_id"], ["cbir.encoder.encoder_id"], name=op.f("probe_run_encoder_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("probe_id", name=op.f("probe_run_pkey")),
        schema="cbir",
        comment="One linear probe: a logistic regression on frozen embeddings. The fitted model itself is not stored.",
    )
    op.create_index(op.f("probe_run_encoder_id_idx"), "probe_run", ["encoder_id"], unique=False, schema="cbir")
    op.create_table(
        "probe_class",
        sa.Column("probe_id", sa.BigInteger(), nullable=False),
        sa.Column("label_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "position", sa.Integer(), nullable=False, comment="Place of its probability in probe_prediction, from 1."
        ),
        sa.Column("train_images", sa.BigInteger(), nullable=False, comment="Images that it was fitted to."),
        sa.ForeignKeyConstraint(["label_id"], ["cbir.label.label_id"], name=op.f("probe_class_label_id_fkey")),
        sa.ForeignKeyConstraint(
            ["probe_id"], ["cbir.probe_run.probe_id"], name=op.f("probe_class_probe_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("probe_id", "label_id", name=op.f("probe_class_pkey")),
        sa.UniqueConstraint("probe_id", "position", name=op.f("probe_class_probe_id_position_key")),
        schema="cbir",
        comment="The classes that a probe can predict.",
    )
    op.create_table(
        "probe_prediction",
        sa.Column("probe_id", sa.BigInteger(), nullable=False),
        sa.Column("image_id", sa.BigInteger(), nullable=False),
        sa.Column("label_id", sa.BigInteger(), nullable=False, comment="The image's own label."),
        sa.Column("predicted_label_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "probabilities",
            sa.ARRAY(sa.Double()),
            nullable=False,
            comment="Of each class, in the order of probe_class.",
        ),
        sa.ForeignKeyConstraint(
            ["image_id"], ["cbir.image.image_id"], name=op.f("probe_prediction_image_id_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["label_id"], ["cbir.label.label_id"], name=op.f("probe_prediction_label_id_fkey")),
        sa.ForeignKeyConstraint(
            ["predicted_label_id"], ["cbir.label.label_id"], name=op.f("probe_prediction_predicted_label_id_fkey")
        ),
        sa.ForeignKeyConstraint(
            ["probe_id"], ["cbir.probe_run.probe_id"], name=op.f("probe_prediction_probe_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("probe_id", "image_id", name=op.f("probe_prediction_pkey")),
        schema="cbir",
        comment="What a probe predicts for one test image; its figures are views over this table.",
    )
    op.create_index(
        op.f("probe_prediction_image_id_idx"), "probe_prediction", ["image_id"], unique=False, schema="cbir"
    )


def downgrade() -> None:
    raise NotImplementedError("cbirdb only goes forward; restore a backup to go back.")
