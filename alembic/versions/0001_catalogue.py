"""The first tables: catalogue, encoders, index builds, evaluation runs, failures.

Revision: 0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "dataset",
        sa.Column("dataset_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False, comment="Short name, used in filters."),
        sa.Column(
            "reader",
            sa.Text(),
            nullable=False,
            comment="The reader that understands its layout: folder, paper-csv, ...",
        ),
        sa.Column(
            "root",
            sa.Text(),
            nullable=True,
            comment="Folder that image.source is relative to; NULL when given without images.",
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("dataset_id", name=op.f("dataset_pkey")),
        sa.UniqueConstraint("name", name=op.f("dataset_name_key")),
        schema="cbir",
        comment="A collection of images that was ingested together.",
    )
    op.create_table(
        "encoder",
        sa.Column("encoder_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("table_name", sa.Text(), nullable=False, comment="Its embedding table in schema cbir."),
        sa.Column("dim", sa.Integer(), nullable=False),
        sa.Column("precision", sa.Text(), nullable=False, comment="half: halfvec (16 bit); single: vector (32 bit)."),
        sa.Column("weights_sha256", sa.Text(), nullable=True),
        sa.Column("preprocessing_sha256", sa.Text(), nullable=True),
        sa.Column("licence", sa.Text(), nullable=True),
        sa.Column(
            "spec",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
            comment="Everything that determines its output.",
        ),
        sa.Column(
            "provenance",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
            comment="Library versions, dtype, device.",
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("precision IN ('half', 'single')", name=op.f("encoder_precision_check")),
        sa.CheckConstraint("dim BETWEEN 1 AND 16000", name=op.f("encoder_dim_check")),
        sa.PrimaryKeyConstraint("encoder_id", name=op.f("encoder_pkey")),
        sa.UniqueConstraint("name", name=op.f("encoder_name_key")),
        sa.UniqueConstraint("table_name", name=op.f("encoder_table_name_key")),
        schema="cbir",
        comment="A model that turns an image into a vector; one embedding table each.",
    )
    op.create_table(
        "label",
        sa.Column("label_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False, comment="Hierarchical path, such as XR/chest/Pneumonia."),
        sa.PrimaryKeyConstraint("label_id", name=op.f("label_pkey")),
        sa.UniqueConstraint("name", name=op.f("label_name_key")),
        schema="cbir",
        comment="A finding, or the class of an image.",
    )
    op.create_table(
        "sql_object",
        sa.Column("kind", sa.Text(), nullable=False, comment="view, routine or type."),
        sa.Column("name", sa.Text(), nullable=False, comment="Qualified name, with argument types for a routine."),
        sa.PrimaryKeyConstraint("kind", "name", name=op.f("sql_object_pkey")),
        schema="cbir",
        comment="What the last upgrade made of sql/, and the next one drops; anything else in the schema is left alone.",
    )
    op.create_table(
        "failure",
        sa.Column("failure_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False, comment="ingest, encode or import-embeddings."),
        sa.Column("dataset_id", sa.BigInteger(), nullable=True),
        sa.Column("encoder_id", sa.BigInteger(), nullable=True),
        sa.Column("source", sa.Text(), nullable=False, comment="The file, as image.source would name it."),
        sa.Column("line", sa.Integer(), nullable=True, comment="Line of a CSV file, where the reason lies there."),
        sa.Column("reason", sa.Text(), nullable=False, comment="Short and stable, for grouping."),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column(
            "occurrences", sa.Integer(), server_default=sa.text("1"), nullable=False, comment="How often it was met."
        ),
        sa.Column("first_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "resolved", sa.Boolean(), server_default=sa.text("false"), nullable=False, comment="A later run went well."
        ),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["cbir.dataset.dataset_id"], name=op.f("failure_dataset_id_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["encoder_id"], ["cbir.encoder.encoder_id"], name=op.f("failure_encoder_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("failure_id", name=op.f("failure_pkey")),
        sa.UniqueConstraint(
            "stage",
            "dataset_id",
            "encoder_id",
            "source",
            "line",
            name="failure_key",
            postgresql_nulls_not_distinct=True,
        ),
        schema="cbir",
        comment="What could not be ingested or encoded, why, and how often.",
    )
    op.create_index(op.f("failure_dataset_id_idx"), "failure", ["dataset_id"], unique=False, schema="cbir")
    op.create_index(op.f("failure_encoder_id_idx"), "failure", ["encoder_id"], unique=False, schema="cbir")
    op.create_table(
        "index_build",
        sa.Column("index_build_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("encoder_id", sa.BigInteger(), nullable=False),
        sa.Column("index_name", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False, comment="hnsw"),
        sa.Column(
            "parameters",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="What it was built with, such as m and ef_construction.",
        ),
        sa.Column(
            "search_settings",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="What searches set, such as hnsw.ef_search.",
        ),
        sa.Column("rows_indexed", sa.BigInteger(), nullable=False),
        sa.Column("index_bytes", sa.BigInteger(), nullable=False),
        sa.Column("memory_estimate_bytes", sa.BigInteger(), nullable=True),
        sa.Column("build_seconds", sa.Double(), nullable=False),
        sa.Column(
            "versions",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="PostgreSQL and pgvector that built it.",
        ),
        sa.Column(
            "audit",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="Self-retrieval rate and recall against exact search, where measured.",
        ),
        sa.Column("built_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("dropped_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["encoder_id"], ["cbir.encoder.encoder_id"], name=op.f("index_build_encoder_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("index_build_id", name=op.f("index_build_pkey")),
        schema="cbir",
        comment="Every vector index that was built, kept after it is dropped: builds are not deterministic.",
    )
    op.create_index(op.f("index_build_encoder_id_idx"), "index_build", ["encoder_id"], unique=False, schema="cbir")
    op.create_table(
        "patient",
        sa.Column("patient_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("dataset_id", sa.BigInteger(), nullable=False),
        sa.Column("pseudonym", sa.Text(), nullable=False, comment="Never a name or a hospital number."),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["cbir.dataset.dataset_id"], name=op.f("patient_dataset_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("patient_id", name=op.f("patient_pkey")),
        sa.UniqueConstraint("dataset_id", "pseudonym", name=op.f("patient_dataset_id_pseudonym_key")),
        schema="cbir",
        comment="A person, known only by a pseudonym.",
    )
    op.create_table(
        "search_run",
        sa.Column("run_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("encoder_id", sa.BigInteger(), nullable=False),
        sa.Column("protocol", sa.Text(), nullable=False, comment="Which images count and what is relevant."),
        sa.Column("datasets", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("query_split", sa.Text(), nullable=False),
        sa.Column("index_split", sa.Text(), nullable=False),
        sa.Column("k", sa.Integer(), nullable=False, comment="Neighbours kept per query."),
        sa.Column("mode", sa.Text(), nullable=False, comment="exact or approximate."),
        sa.Column("index_build_id", sa.BigInteger(), nullable=True),
        sa.Column(
            "ann_recall",
            sa.Double(),
            nullable=True,
            comment="Share of the true nearest neighbours found; 1 when exact.",
        ),
        sa.Column(
            "ann_recall_at", sa.Integer(), nullable=True, comment="Number of neighbours that ann_recall looks at."
        ),
        sa.Column(
            "ann_recall_queries",
            sa.Integer(),
            nullable=True,
            comment="Number of queries that ann_recall was measured on.",
        ),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("indexed_images", sa.BigInteger(), nullable=False),
        sa.Column("query_images", sa.BigInteger(), nullable=False),
        sa.Column(
            "short_queries",
            sa.BigInteger(),
            nullable=True,
            comment="Queries for which fewer neighbours were found than exist.",
        ),
        sa.Column("versions", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "finished_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="NULL: still running, or it did not finish.",
        ),
        sa.CheckConstraint("mode IN ('exact', 'approximate')", name=op.f("search_run_mode_check")),
        sa.CheckConstraint("k > 0", name=op.f("search_run_k_check")),
        sa.ForeignKeyConstraint(
            ["encoder_id"], ["cbir.encoder.encoder_id"], name=op.f("search_run_encoder_id_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["index_build_id"], ["cbir.index_build.index_build_id"], name=op.f("search_run_index_build_id_fkey")
        ),
        sa.PrimaryKeyConstraint("run_id", name=op.f("search_run_pkey")),
        schema="cbir",
        comment="One evaluation of one encoder: what was asked, of what, and how.",
    )
    op.create_index(op.f("search_run_encoder_id_idx"), "search_run", ["encoder_id"], unique=False, schema="cbir")
    op.create_table(
        "study",
        sa.Column("study_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("dataset_id", sa.BigInteger(), nullable=False),
        sa.Column("patient_id", sa.BigInteger(), nullable=True),
        sa.Column(
            "study_uid", sa.Text(), nullable=False, comment="Study instance UID, or the dataset's own study key."
        ),
        sa.Column("study_date", sa.Date(), nullable=True),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["cbir.dataset.dataset_id"], name=op.f("study_dataset_id_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["patient_id"], ["cbir.patient.patient_id"], name=op.f("study_patient_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("study_id", name=op.f("study_pkey")),
        sa.UniqueConstraint("dataset_id", "study_uid", name=op.f("study_dataset_id_study_uid_key")),
        schema="cbir",
        comment="One examination of a patient.",
    )
    op.create_index(op.f("study_patient_id_idx"), "study", ["patient_id"], unique=False, schema="cbir")
    op.create_table(
        "series",
        sa.Column("series_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("series_uid", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_id"], ["cbir.study.study_id"], name=op.f("series_study_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("series_id", name=op.f("series_pkey")),
        sa.UniqueConstraint("study_id", "series_uid", name=op.f("series_study_id_series_uid_key")),
        schema="cbir",
        comment="One acquisition within a study.",
    )
    op.create_table(
        "image",
        sa.Column("image_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("dataset_id", sa.BigInteger(), nullable=False),
        sa.Column("patient_id", sa.BigInteger(), nullable=True),
        sa.Column("study_id", sa.BigInteger(), nullable=True),
        sa.Column("series_id", sa.BigInteger(), nullable=True),
        sa.Column(
            "source", sa.Text(), nullable=False, comment="The file as its dataset gives it, relative to dataset.root."
        ),
        sa.Column(
            "frame",
            sa.Integer(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Frame of a multi-frame file, from 0.",
        ),
        sa.Column("sop_uid", sa.Text(), nullable=True, comment="SOP instance UID, where the image came from DICOM."),
        sa.Column(
            "split",
            sa.Text(),
            nullable=True,
            comment="train (indexed), test (queries) or val; NULL outside of experiments.",
        ),
        sa.Column("modality", sa.Text(), nullable=True, comment="DICOM code: CT, MR, US, XR, ..."),
        sa.Column("anatomic_region", sa.Text(), nullable=True),
        sa.Column("width", sa.Integer(), nullable=True, comment="Pixels; NULL when the file was not looked at."),
        sa.Column("height", sa.Integer(), nullable=True, comment="Pixels; NULL when the file was not looked at."),
        sa.Column("file_bytes", sa.BigInteger(), nullable=True),
        sa.Column(
            "file_modified_ns",
            sa.BigInteger(),
            nullable=True,
            comment="mtime in nanoseconds since 1970: tells a changed file cheaply.",
        ),
        sa.Column(
            "sha256",
            sa.LargeBinary(),
            nullable=True,
            comment="SHA-256 of the file's bytes; equal hashes are duplicates.",
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("split IN ('train', 'val', 'test')", name=op.f("image_split_check")),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["cbir.dataset.dataset_id"], name=op.f("image_dataset_id_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["patient_id"], ["cbir.patient.patient_id"], name=op.f("image_patient_id_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["series_id"], ["cbir.series.series_id"], name=op.f("image_series_id_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["study_id"], ["cbir.study.study_id"], name=op.f("image_study_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("image_id", name=op.f("image_pkey")),
        sa.UniqueConstraint("dataset_id", "source", "frame", name=op.f("image_dataset_id_source_frame_key")),
        schema="cbir",
        comment="One 2D frame.",
    )
    op.create_index(op.f("image_patient_id_idx"), "image", ["patient_id"], unique=False, schema="cbir")
    op.create_index(op.f("image_series_id_idx"), "image", ["series_id"], unique=False, schema="cbir")
    op.create_index(op.f("image_sha256_idx"), "image", ["sha256"], unique=False, schema="cbir")
    op.create_index(
        op.f("image_sop_uid_idx"),
        "image",
        ["sop_uid"],
        unique=False,
        schema="cbir",
        postgresql_where=sa.text("sop_uid IS NOT NULL"),
    )
    op.create_index(op.f("image_study_id_idx"), "image", ["study_id"], unique=False, schema="cbir")
    op.create_table(
        "image_label",
        sa.Column("image_id", sa.BigInteger(), nullable=False),
        sa.Column("label_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "value",
            sa.SmallInteger(),
            server_default=sa.text("1"),
            nullable=False,
            comment="1 positive, 0 negative, -1 uncertain; no row: not mentioned.",
        ),
        sa.CheckConstraint("value IN (-1, 0, 1)", name=op.f("image_label_value_check")),
        sa.ForeignKeyConstraint(
            ["image_id"], ["cbir.image.image_id"], name=op.f("image_label_image_id_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["label_id"], ["cbir.label.label_id"], name=op.f("image_label_label_id_fkey")),
        sa.PrimaryKeyConstraint("image_id", "label_id", name=op.f("image_label_pkey")),
        schema="cbir",
        comment="What is known about a label on an image.",
    )
    op.create_index(op.f("image_label_label_id_idx"), "image_label", ["label_id"], unique=False, schema="cbir")
    op.create_table(
        "search_result",
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("query_image_id", sa.BigInteger(), nullable=False),
        sa.Column("label_id", sa.BigInteger(), nullable=False, comment="The query's label."),
        sa.Column(
            "relevant_count", sa.Integer(), nullable=False, comment="Indexed images that carry the query's label."
        ),
        sa.Column("neighbour_ids", sa.ARRAY(sa.BigInteger()), nullable=False, comment="Nearest first."),
        sa.Column("distances", sa.ARRAY(sa.REAL()), nullable=False, comment="Cosine distances, as neighbour_ids."),
        sa.Column(
            "hits", sa.ARRAY(sa.SmallInteger()), nullable=False, comment="hits[n]: relevant images among the first n."
        ),
        sa.ForeignKeyConstraint(["label_id"], ["cbir.label.label_id"], name=op.f("search_result_label_id_fkey")),
        sa.ForeignKeyConstraint(
            ["query_image_id"],
            ["cbir.image.image_id"],
            name=op.f("search_result_query_image_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["run_id"], ["cbir.search_run.run_id"], name=op.f("search_result_run_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run_id", "query_image_id", name=op.f("search_result_pkey")),
        schema="cbir",
        comment="The nearest neighbours of one query in one run; every metric is a view over this table.",
    )
    op.create_index(
        op.f("search_result_query_image_id_idx"), "search_result", ["query_image_id"], unique=False, schema="cbir"
    )


def downgrade() -> None:
    raise NotImplementedError("cbirdb only goes forward; restore a backup to go back.")
