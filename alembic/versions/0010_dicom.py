"""Add what DICOM headers say of images, hashes of decoded pixels, words for body parts, and merged patients.

Revision: 0010, after 0009.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

NUMBERS = postgresql.ARRAY(sa.Double())
IMAGE = (
    ("pixel_sha256", sa.LargeBinary(), "SHA-256 of the decoded pixels of a DICOM frame; NULL: not read yet."),
    (
        "replaced_by",
        sa.BigInteger(),
        "Image with the same SOP instance UID that is searched instead; NULL: it is searched itself.",
    ),
    ("sop_class_uid", sa.Text(), "DICOM's kind of object, such as 1.2.840.10008.5.1.4.1.1.2 for CT."),
    ("transfer_syntax_uid", sa.Text(), "How the file stores pixels; NULL: the file does not say."),
    ("modality_code", sa.Text(), "Modality as the file has it: CR and DX where modality is XR."),
    ("body_part", sa.Text(), "Code of the body part as the file has it; anatomic_region is its word."),
    ("laterality", sa.Text(), "L, R, B or U."),
    (
        "image_type",
        postgresql.ARRAY(sa.Text()),
        "ORIGINAL or DERIVED, PRIMARY or SECONDARY, then others: LOCALIZER, ...",
    ),
    ("presentation_intent", sa.Text(), "FOR PRESENTATION or FOR PROCESSING."),
    ("manufacturer", sa.Text(), None),
    ("manufacturer_model", sa.Text(), None),
    ("photometric_interpretation", sa.Text(), None),
    ("burned_in_annotation", sa.Text(), "YES or NO; NULL says nothing about text in the picture."),
    ("pixel_spacing", NUMBERS, "Millimetres between rows and between columns."),
    ("slice_position", NUMBERS, "Image Position (Patient), in millimetres."),
    ("slice_orientation", NUMBERS, "Direction cosines of a row and a column."),
)


def upgrade() -> None:
    for name, kind, comment in IMAGE:
        op.add_column("image", sa.Column(name, kind, nullable=True, comment=comment), schema="cbir")
    op.create_foreign_key(
        op.f("image_replaced_by_fkey"),
        "image",
        "image",
        ["replaced_by"],
        ["image_id"],
        source_schema="cbir",
        referent_schema="cbir",
        ondelete="SET NULL",
    )
    op.create_index(
        op.f("image_replaced_by_idx"),
        "image",
        ["replaced_by"],
        schema="cbir",
        postgresql_where=sa.text("replaced_by IS NOT NULL"),
    )
    op.create_check_constraint(
        op.f("image_laterality_check"), "image", "laterality IN ('L', 'R', 'B', 'U')", schema="cbir"
    )
    op.execute(
        "COMMENT ON COLUMN cbir.image.frame IS 'Frame of a multi-frame file, from 0; functions, views and commands count"
        " from 1, as DICOM does.'"
    )
    op.add_column(
        "study",
        sa.Column("accession", sa.Text(), nullable=True, comment="Pseudonym of the accession number; NULL: not given."),
        schema="cbir",
    )
    op.add_column(
        "encoder",
        sa.Column(
            "rendering_sha256",
            sa.Text(),
            nullable=True,
            comment="How DICOM is shown to it; NULL: no DICOM image has been encoded.",
        ),
        schema="cbir",
    )
    op.create_table(
        "body_part",
        sa.Column(
            "code", sa.Text(), nullable=False, comment="Body part as DICOM files have it, in capitals: CHEST, ABD, ..."
        ),
        sa.Column("anatomic_region", sa.Text(), nullable=False, comment="Word for it in image.anatomic_region."),
        sa.CheckConstraint("code ~ '^[A-Z0-9 _]{1,16}$'", name=op.f("body_part_code_check")),
        sa.PrimaryKeyConstraint("code", name=op.f("body_part_pkey")),
        schema="cbir",
        comment="Words for codes of body parts that a user adds to those that cbirdb knows, or that replace them.",
    )
    _add_merged_patients()


def _add_merged_patients() -> None:
    op.create_table(
        "merged_patient",
        sa.Column("dataset_id", sa.BigInteger(), nullable=False),
        sa.Column("pseudonym", sa.Text(), nullable=False, comment="The patient's former pseudonym."),
        sa.Column("patient_id", sa.BigInteger(), nullable=False, comment="The patient that this one turned out to be."),
        sa.Column(
            "former_patient_id",
            sa.BigInteger(),
            nullable=False,
            comment="Its former patient_id, which the audit may hold.",
        ),
        sa.Column("merged_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("merged_by", sa.Text(), server_default=sa.text("session_user"), nullable=False, comment="The login."),
        sa.ForeignKeyConstraint(
            ["dataset_id"],
            ["cbir.dataset.dataset_id"],
            name=op.f("merged_patient_dataset_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["patient_id"],
            ["cbir.patient.patient_id"],
            name=op.f("merged_patient_patient_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("dataset_id", "pseudonym", name=op.f("merged_patient_pkey")),
        schema="cbir",
        comment="Patients that were merged into another: their files, too, find that patient.",
    )
    op.create_index(op.f("merged_patient_patient_id_idx"), "merged_patient", ["patient_id"], schema="cbir")
    op.add_column(
        "search_run",
        sa.Column(
            "merged_images",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Queries and indexed images whose patient was merged into another since.",
        ),
        schema="cbir",
    )


def downgrade() -> None:
    raise NotImplementedError("cbirdb only goes forward; restore a backup to go back.")
