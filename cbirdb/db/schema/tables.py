"""Defines the tables of schema ``cbir`` as SQLAlchemy metadata, with which Alembic compares the database.

Only Alembic reads it; the program uses SQL. Embedding tables and vector indexes are absent:
``cbir_internal.create_embedding_table`` and ``cbirdb index build`` create them per encoder.
"""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    REAL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from cbirdb.db.schema_name import SCHEMA

metadata = MetaData(
    schema=SCHEMA,
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    },
)

NOW = text("now()")
EMPTY_JSON = text("'{}'::jsonb")
ENCODER_NAME = "^[a-z0-9.-]{1,40}(@[0-9a-f]{8})?$"
"""Pattern of an encoder's name, from which its table's name is derived."""


def _key(name: str) -> Column[int]:
    return Column(name, BigInteger, Identity(always=True), primary_key=True)


def _one_of(column: str, *values: str) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


dataset = Table(
    "dataset",
    metadata,
    _key("dataset_id"),
    Column("name", Text, nullable=False, unique=True, comment="Short name, used in filters."),
    Column("reader", Text, nullable=False, comment="The reader that understands its layout: folder, paper-csv, ..."),
    Column("root", Text, comment="Folder that image.source is relative to; NULL when given without images."),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=NOW),
    comment="A collection of images that was ingested together.",
)

patient = Table(
    "patient",
    metadata,
    _key("patient_id"),
    Column("dataset_id", BigInteger, ForeignKey(dataset.c.dataset_id, ondelete="CASCADE"), nullable=False),
    Column("pseudonym", Text, nullable=False, comment="Never a name or a hospital number."),
    Column("sex", Text, comment="F, M or O; NULL: not given."),
    UniqueConstraint("dataset_id", "pseudonym"),
    _one_of("sex", "F", "M", "O"),
    comment="A person, known only by a pseudonym.",
)

study = Table(
    "study",
    metadata,
    _key("study_id"),
    Column("dataset_id", BigInteger, ForeignKey(dataset.c.dataset_id, ondelete="CASCADE"), nullable=False),
    Column("patient_id", BigInteger, ForeignKey(patient.c.patient_id, ondelete="CASCADE"), index=True),
    Column("study_uid", Text, nullable=False, comment="Study instance UID, or the dataset's own study key."),
    Column("study_date", Date, index=True),
    Column("age_years", SmallInteger, comment="The patient's age at that time; NULL: not given, or not credible."),
    Column("accession", Text, comment="Pseudonym of the accession number; NULL: not given."),
    UniqueConstraint("dataset_id", "study_uid"),
    comment="One examination of a patient.",
)

series = Table(
    "series",
    metadata,
    _key("series_id"),
    Column("study_id", BigInteger, ForeignKey(study.c.study_id, ondelete="CASCADE"), nullable=False),
    Column("series_uid", Text, nullable=False),
    UniqueConstraint("study_id", "series_uid"),
    comment="One acquisition within a study.",
)

image = Table(
    "image",
    metadata,
    _key("image_id"),
    Column("dataset_id", BigInteger, ForeignKey(dataset.c.dataset_id, ondelete="CASCADE"), nullable=False),
    Column("patient_id", BigInteger, ForeignKey(patient.c.patient_id, ondelete="CASCADE"), index=True),
    Column("study_id", BigInteger, ForeignKey(study.c.study_id, ondelete="CASCADE"), index=True),
    Column("series_id", BigInteger, ForeignKey(series.c.series_id, ondelete="CASCADE"), index=True),
    Column("source", Text, nullable=False, comment="The file as its dataset gives it, relative to dataset.root."),
    Column(
        "frame",
        Integer,
        nullable=False,
        server_default=text("0"),
        comment="Frame of a multi-frame file, from 0; functions, views and commands count from 1, as DICOM does.",
    ),
    Column("sop_uid", Text, comment="SOP instance UID, where the image came from DICOM."),
    Column("split", Text, comment="train (indexed), test (queries) or val; NULL outside of experiments."),
    Column("modality", Text, comment="DICOM code: CT, MR, US, XR, ..."),
    Column("anatomic_region", Text),
    Column("view", Text, comment="View of the picture: PA, AP, lateral, ..."),
    Column("width", Integer, comment="Pixels; NULL when the file was not looked at."),
    Column("height", Integer, comment="Pixels; NULL when the file was not looked at."),
    Column("file_bytes", BigInteger),
    Column("file_modified_ns", BigInteger, comment="mtime in nanoseconds since 1970: tells a changed file cheaply."),
    Column("sha256", LargeBinary, comment="SHA-256 of the file's bytes; equal hashes are duplicates."),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=NOW),
    Column("damage", Text, comment="Damage that a decoder reported of an accepted image; NULL: none."),
    Column("pixel_sha256", LargeBinary, comment="SHA-256 of the decoded pixels of a DICOM frame; NULL: not read yet."),
    Column(
        "replaced_by",
        BigInteger,
        ForeignKey("cbir.image.image_id", ondelete="SET NULL"),
        comment="Image with the same SOP instance UID that is searched instead; NULL: it is searched itself.",
    ),
    Column("sop_class_uid", Text, comment="DICOM's kind of object, such as 1.2.840.10008.5.1.4.1.1.2 for CT."),
    Column("transfer_syntax_uid", Text, comment="How the file stores pixels; NULL: the file does not say."),
    Column("modality_code", Text, comment="Modality as the file has it: CR and DX where modality is XR."),
    Column("body_part", Text, comment="Code of the body part as the file has it; anatomic_region is its word."),
    Column("laterality", Text, comment="L, R, B or U."),
    Column("image_type", ARRAY(Text), comment="ORIGINAL or DERIVED, PRIMARY or SECONDARY, then others: LOCALIZER, ..."),
    Column("presentation_intent", Text, comment="FOR PRESENTATION or FOR PROCESSING."),
    Column("manufacturer", Text),
    Column("manufacturer_model", Text),
    Column("photometric_interpretation", Text),
    Column("burned_in_annotation", Text, comment="YES or NO; NULL says nothing about text in the picture."),
    Column("pixel_spacing", ARRAY(Double), comment="Millimetres between rows and between columns."),
    Column("slice_position", ARRAY(Double), comment="Image Position (Patient), in millimetres."),
    Column("slice_orientation", ARRAY(Double), comment="Direction cosines of a row and a column."),
    UniqueConstraint("dataset_id", "source", "frame"),
    _one_of("split", "train", "val", "test"),
    _one_of("laterality", "L", "R", "B", "U"),
    Index(None, "replaced_by", postgresql_where=text("replaced_by IS NOT NULL")),
    Index(None, "sha256"),
    Index(None, "modality"),
    Index(None, "anatomic_region"),
    Index(None, "split"),
    Index(None, "sop_uid", postgresql_where=text("sop_uid IS NOT NULL")),
    comment="One 2D frame.",
)

body_part = Table(
    "body_part",
    metadata,
    Column("code", Text, primary_key=True, comment="Body part as DICOM files have it, in capitals: CHEST, ABD, ..."),
    Column("anatomic_region", Text, nullable=False, comment="Word for it in image.anatomic_region."),
    CheckConstraint("code ~ '^[A-Z0-9 _]{1,16}$'", name="code"),
    comment="Words for codes of body parts that a user adds to those that cbirdb knows, or that replace them.",
)

label = Table(
    "label",
    metadata,
    _key("label_id"),
    Column("name", Text, nullable=False, unique=True, comment="Hierarchical path, such as XR/chest/Pneumonia."),
    comment="A finding, or the class of an image.",
)

image_label = Table(
    "image_label",
    metadata,
    Column("image_id", BigInteger, ForeignKey(image.c.image_id, ondelete="CASCADE"), primary_key=True),
    Column("label_id", BigInteger, ForeignKey(label.c.label_id), primary_key=True, index=True),
    Column(
        "value",
        SmallInteger,
        nullable=False,
        server_default=text("1"),
        comment="1 positive, 0 negative, -1 uncertain; no row: not mentioned.",
    ),
    CheckConstraint("value IN (-1, 0, 1)", name="value"),
    comment="Labels of images, with their values.",
)

encoder = Table(
    "encoder",
    metadata,
    _key("encoder_id"),
    Column("name", Text, nullable=False, unique=True),
    Column("table_name", Text, nullable=False, unique=True, comment="Its embedding table in schema cbir."),
    Column("dim", Integer, nullable=False),
    Column("precision", Text, nullable=False, comment="half: halfvec (16 bit); single: vector (32 bit)."),
    Column("weights_sha256", Text),
    Column("preprocessing_sha256", Text),
    Column("rendering_sha256", Text, comment="How DICOM is shown to it; NULL: no DICOM image has been encoded."),
    Column("licence", Text),
    Column("spec", JSONB, nullable=False, server_default=EMPTY_JSON, comment="Everything that determines its output."),
    Column("provenance", JSONB, nullable=False, server_default=EMPTY_JSON, comment="Library versions, dtype, device."),
    Column(
        "golden_embedding",
        ARRAY(REAL),
        comment="Unit vector of one fixed picture when the encoder was first used; NULL: imported, not computed.",
    ),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=NOW),
    CheckConstraint(f"name ~ '{ENCODER_NAME}'", name="name"),
    CheckConstraint(
        "table_name = 'embedding_' || btrim(regexp_replace(name, '[^a-z0-9]+', '_', 'g'), '_')"
        " AND table_name ~ '^embedding_[a-z0-9]'",
        name="table_name",
    ),
    CheckConstraint("dim BETWEEN 1 AND 16000", name="dim"),
    _one_of("precision", "half", "single"),
    comment="A model that turns an image into a vector; one embedding table each.",
)

encoder_record = Table(
    "encoder_record",
    metadata,
    Column("name", Text, primary_key=True),
    Column("spec", JSONB, nullable=False, comment="As in encoder.spec."),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=NOW),
    CheckConstraint(f"name ~ '{ENCODER_NAME}'", name="name"),
    comment="Encoders added to those that ship with cbirdb; a row of encoder is made when one is first used.",
)

index_build = Table(
    "index_build",
    metadata,
    _key("index_build_id"),
    Column("encoder_id", BigInteger, ForeignKey(encoder.c.encoder_id, ondelete="CASCADE"), nullable=False, index=True),
    Column("index_name", Text, nullable=False),
    Column("method", Text, nullable=False, comment="hnsw, bit-hnsw or ivfflat."),
    Column("parameters", JSONB, nullable=False, comment="Parameters of the build, such as m and ef_construction."),
    Column(
        "search_settings",
        JSONB,
        nullable=False,
        comment="Settings that searches for ten start from, see cbir_internal.index_walk.",
    ),
    Column("choice", JSONB, comment="Measurements on a sample, if the method was chosen automatically."),
    Column("rows_indexed", BigInteger, nullable=False),
    Column("index_bytes", BigInteger, nullable=False),
    Column("memory_estimate_bytes", BigInteger),
    Column("build_seconds", Double, nullable=False),
    Column("versions", JSONB, nullable=False, comment="PostgreSQL and pgvector that built it."),
    Column("audit", JSONB, comment="Self-retrieval rate and recall against exact search, where measured."),
    Column("built_at", DateTime(timezone=True), nullable=False, server_default=NOW),
    Column("dropped_at", DateTime(timezone=True)),
    comment="Every vector index that was built, kept after it is dropped: builds are not deterministic.",
)

search_run = Table(
    "search_run",
    metadata,
    _key("run_id"),
    Column("encoder_id", BigInteger, ForeignKey(encoder.c.encoder_id, ondelete="CASCADE"), nullable=False, index=True),
    Column("protocol", Text, nullable=False, comment="Images that count and the meaning of relevant, in words."),
    Column("definition", Text, comment="The protocol in words, as it was when the run was made."),
    Column("split_seed", BigInteger, nullable=False, server_default=text("0"), comment="Of splits that are drawn."),
    Column(
        "same_patient",
        Boolean,
        nullable=False,
        server_default=text("true"),
        comment="True if a query may retrieve images of its own patient.",
    ),
    Column("datasets", ARRAY(Text), nullable=False),
    Column("query_split", Text, nullable=False),
    Column("index_split", Text, nullable=False),
    Column("k", Integer, nullable=False, comment="Neighbours kept per query."),
    Column("mode", Text, nullable=False, comment="exact or approximate."),
    Column("index_build_id", BigInteger, ForeignKey(index_build.c.index_build_id)),
    Column("ann_recall", Double, comment="Share of the true nearest neighbours found; 1 when exact."),
    Column("ann_recall_at", Integer, comment="Number of neighbours that ann_recall looks at."),
    Column("ann_recall_queries", Integer, comment="Number of queries that ann_recall was measured on."),
    Column("ann_zeros", BigInteger, comment="Of these queries, those for which no true nearest neighbour was found."),
    Column("index_audit", JSONB, comment="The audit of the index, as it was when the run was made."),
    Column("not_final", Text, comment="Why its figures are not to be relied on; NULL: they may be."),
    Column("seed", BigInteger, nullable=False),
    Column("indexed_images", BigInteger, nullable=False),
    Column("query_images", BigInteger, nullable=False),
    Column("short_queries", BigInteger, comment="Queries for which fewer neighbours were found than exist."),
    Column(
        "erased_images",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="Queries and indexed images erased since: the figures are no longer those of the run as it was made.",
    ),
    Column(
        "erased_neighbours",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="Entries taken out of the lists of other queries since.",
    ),
    Column(
        "merged_images",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="Queries and indexed images whose patient was merged into another since.",
    ),
    Column("versions", JSONB, nullable=False),
    Column(
        "fingerprint",
        Text,
        comment="Of the images, patients, labels and embeddings that took part: a dead run is resumed while it is the same.",
    ),
    Column("started_at", DateTime(timezone=True), nullable=False, server_default=NOW),
    Column("finished_at", DateTime(timezone=True), comment="NULL: still running, or it did not finish."),
    CheckConstraint("k > 0", name="k"),
    _one_of("mode", "exact", "approximate"),
    comment="One evaluation of one encoder: what was asked, of what, and how.",
)

search_result = Table(
    "search_result",
    metadata,
    Column("run_id", BigInteger, ForeignKey(search_run.c.run_id, ondelete="CASCADE"), primary_key=True),
    Column(
        "query_image_id", BigInteger, ForeignKey(image.c.image_id, ondelete="CASCADE"), primary_key=True, index=True
    ),
    Column(
        "label_id",
        BigInteger,
        ForeignKey(label.c.label_id),
        comment="The query's label; NULL where it may have several: search_result_label has those.",
    ),
    Column("relevant_count", Integer, nullable=False, comment="Indexed images that are relevant for the query."),
    Column("neighbour_ids", ARRAY(BigInteger), nullable=False, comment="Nearest first."),
    Column("distances", ARRAY(REAL), nullable=False, comment="Cosine distances, as neighbour_ids."),
    Column("hits", ARRAY(SmallInteger), nullable=False, comment="hits[n]: relevant images among the first n."),
    comment="The nearest neighbours of one query in one run; every metric is a view over this table.",
)

search_result_label = Table(
    "search_result_label",
    metadata,
    Column("run_id", BigInteger, primary_key=True),
    Column("query_image_id", BigInteger, primary_key=True),
    Column("label_id", BigInteger, ForeignKey(label.c.label_id), primary_key=True, comment="One of the query's."),
    Column("relevant_count", Integer, nullable=False, comment="Indexed images that carry this label."),
    Column("hits", ARRAY(SmallInteger), nullable=False, comment="hits[n]: carriers of this label among the first n."),
    ForeignKeyConstraint(
        ["run_id", "query_image_id"],
        [search_result.c.run_id, search_result.c.query_image_id],
        ondelete="CASCADE",
    ),
    comment="The same neighbours, looked at for each label of a query that may have several.",
)

sql_object = Table(
    "sql_object",
    metadata,
    Column("kind", Text, primary_key=True, comment="view, routine or type."),
    Column("name", Text, primary_key=True, comment="Qualified name, with argument types for a routine."),
    comment="Objects that the last upgrade made from sql/ and the next one drops; others in the schemas stay.",
)

failure = Table(
    "failure",
    metadata,
    _key("failure_id"),
    Column("stage", Text, nullable=False, comment="ingest, encode or import-embeddings."),
    Column("dataset_id", BigInteger, ForeignKey(dataset.c.dataset_id, ondelete="CASCADE"), index=True),
    Column("encoder_id", BigInteger, ForeignKey(encoder.c.encoder_id, ondelete="CASCADE"), index=True),
    Column("source", Text, nullable=False, comment="The file, as image.source would name it."),
    Column("line", Integer, comment="Line of a CSV file, where the reason lies there."),
    Column("reason", Text, nullable=False, comment="Short and stable, for grouping."),
    Column("detail", Text, nullable=False),
    Column("occurrences", Integer, nullable=False, server_default=text("1"), comment="Number of times it was met."),
    Column("first_at", DateTime(timezone=True), nullable=False, server_default=NOW),
    Column("last_at", DateTime(timezone=True), nullable=False, server_default=NOW),
    Column("resolved", Boolean, nullable=False, server_default=text("false"), comment="A later run went well."),
    UniqueConstraint(
        "stage", "dataset_id", "encoder_id", "source", "line", postgresql_nulls_not_distinct=True, name="failure_key"
    ),
    comment="Files that could not be ingested or encoded, with reason and number of times.",
)
