"""Defines the tables of access: who may see what, who searched what, who was erased, and what stands for patients. Same
metadata as ``tables``.
"""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Integer,
    LargeBinary,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, OID

from cbirdb.db.schema.tables import EMPTY_JSON, NOW, _key, _one_of, dataset, metadata, patient

ACTING_ROLE = "The role that acted: the one of SET ROLE, else the login."

setting = Table(
    "setting",
    metadata,
    Column("name", Text, primary_key=True),
    Column("enabled", Boolean, nullable=False),
    Column("changed_at", DateTime(timezone=True), nullable=False, server_default=NOW),
    Column("changed_by", Text, nullable=False, server_default=text("session_user"), comment="The login."),
    _one_of("name", "audit", "purpose_required", "row_security"),
    comment="Switches of an administrator; everybody could change a setting of the server.",
)

dataset_access = Table(
    "dataset_access",
    metadata,
    Column("role_name", Text, primary_key=True, comment="A login, or a group role of a site."),
    Column("dataset", Text, primary_key=True, comment="A dataset's name; it need not be there yet."),
    Column("granted_at", DateTime(timezone=True), nullable=False, server_default=NOW),
    Column(
        "role_oid",
        OID,
        comment="Of the role when the row was made; the row counts only while name and OID are of one role.",
    ),
    comment="Datasets that each role sees while row-level security is on; a role without a row sees none.",
)

search_audit = Table(
    "search_audit",
    metadata,
    _key("audit_id"),
    Column("searched_at", DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")),
    Column("login", Text, nullable=False, comment="Who connected (session_user)."),
    Column("role", Text, nullable=False, comment=ACTING_ROLE),
    Column("purpose", Text, comment="Why, as the setting cbir.purpose said; NULL: not given."),
    Column(
        "function",
        Text,
        nullable=False,
        comment="Name of the search function; setting: an administrator changed cbir.setting.",
    ),
    Column("encoder", Text, comment="NULL: all."),
    Column("query_image_id", BigInteger, comment="NULL: a vector was given, or the image has been erased."),
    Column("k", Integer),
    Column("filter", JSONB, nullable=False, server_default=EMPTY_JSON),
    Column("mode", Text, comment="exact or approximate."),
    Column("returned", ARRAY(BigInteger), nullable=False, comment="Images that were returned."),
    Column(
        "erased_ids",
        Integer,
        nullable=False,
        server_default=text("0"),
        comment="Image ids taken out of this row because their patient was erased.",
    ),
    CheckConstraint("erased_ids >= 0", name="erased_ids"),
    comment="Who searched what, when and why, and which images were returned. Append only.",
)

erasure_certificate = Table(
    "erasure_certificate",
    metadata,
    Column("certificate_id", Uuid, primary_key=True, server_default=text("gen_random_uuid()")),
    Column("dataset", Text, nullable=False),
    Column(
        "pseudonym_sha256",
        LargeBinary,
        nullable=False,
        index=True,
        comment="Of dataset and pseudonym: see erasure_hash.",
    ),
    Column("erased_at", DateTime(timezone=True), nullable=False, server_default=NOW),
    Column("login", Text, nullable=False, comment="Who connected (session_user)."),
    Column("role", Text, nullable=False, comment=ACTING_ROLE),
    Column("removed", JSONB, nullable=False, comment="Rows removed, by table, and what was taken out of lists."),
    Column("to_run", ARRAY(Text), nullable=False, comment="Statements that take the vectors out of files and indexes."),
    comment="Certificates of erasure: content, time and role. While one is here, its patient cannot be ingested again.",
)

erased_image = Table(
    "erased_image",
    metadata,
    Column("source_sha256", LargeBinary, primary_key=True, comment="Of dataset and source: see erasure_hash."),
    Column(
        "certificate_id",
        Uuid,
        ForeignKey(erasure_certificate.c.certificate_id, ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    comment="Files of erased patients, so that a list that does not tell patients apart cannot bring them back.",
)

pseudonym_key = Table(
    "pseudonym_key",
    metadata,
    Column("fingerprint", Text, primary_key=True, comment="Tells the key from others without giving it away."),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=NOW),
    comment="With which key patient.pseudonym was made: at most one row. The key itself is not in the database.",
)

merged_patient = Table(
    "merged_patient",
    metadata,
    Column("dataset_id", BigInteger, ForeignKey(dataset.c.dataset_id, ondelete="CASCADE"), primary_key=True),
    Column("pseudonym", Text, primary_key=True, comment="The patient's former pseudonym."),
    Column(
        "patient_id",
        BigInteger,
        ForeignKey(patient.c.patient_id, ondelete="CASCADE"),
        nullable=False,
        index=True,
        comment="The patient that this one turned out to be.",
    ),
    Column("former_patient_id", BigInteger, nullable=False, comment="Its former patient_id, which the audit may hold."),
    Column("merged_at", DateTime(timezone=True), nullable=False, server_default=NOW),
    Column("merged_by", Text, nullable=False, server_default=text("session_user"), comment="The login."),
    comment="Patients that were merged into another: their files, too, find that patient.",
)
