"""Defines the tables of linear probes: what was fitted to which images, and what it predicts. Same metadata as
``tables``.
"""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from cbirdb.db.schema.tables import NOW, _key, _one_of, encoder, image, label, metadata

probe_run = Table(
    "probe_run",
    metadata,
    _key("probe_id"),
    Column("encoder_id", BigInteger, ForeignKey(encoder.c.encoder_id, ondelete="CASCADE"), nullable=False, index=True),
    Column("datasets", ARRAY(Text), nullable=False),
    Column("split_seed", BigInteger, nullable=False, comment="Of splits that are drawn."),
    Column("same_patient", Boolean, nullable=False, comment="True if shared_patient_images took part."),
    Column("criterion", Text, nullable=False, comment="Figure of the val images by which c was chosen."),
    Column("c", Double, nullable=False, comment="Inverse strength of the regularisation, as in scikit-learn."),
    Column(
        "candidates",
        JSONB,
        nullable=False,
        comment="Each c that was tried: its figures on the val images, its iterations, and if it converged.",
    ),
    Column("train_images", BigInteger, nullable=False),
    Column("val_images", BigInteger, nullable=False),
    Column("test_images", BigInteger, nullable=False),
    Column("left_out", BigInteger, nullable=False, comment="Images of the splits with no or several labels."),
    Column("not_encoded", BigInteger, nullable=False, comment="Images that have no embedding of this encoder."),
    Column(
        "shared_patient_images",
        BigInteger,
        nullable=False,
        comment="Train and val images whose patient has images in a later split, of train, val and test.",
    ),
    Column("not_final", Text, comment="Why its figures are not to be relied on; NULL: they may be."),
    Column(
        "erased_images",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="Test images erased since: the figures are no longer those of the probe as it was made.",
    ),
    Column(
        "erased_fitted_images",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="Train and val images erased since: the predictions still rest on them.",
    ),
    Column(
        "merged_images",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="Images whose patient was merged into another since.",
    ),
    Column("fingerprint", Text, nullable=False, comment="Of the images, patients, labels and embeddings it rests on."),
    Column("versions", JSONB, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=NOW),
    CheckConstraint("c > 0", name="c"),
    _one_of("criterion", "balanced_accuracy", "accuracy"),
    comment="One linear probe: a logistic regression on frozen embeddings. The fitted model itself is not stored.",
)

probe_class = Table(
    "probe_class",
    metadata,
    Column("probe_id", BigInteger, ForeignKey(probe_run.c.probe_id, ondelete="CASCADE"), primary_key=True),
    Column("label_id", BigInteger, ForeignKey(label.c.label_id), primary_key=True),
    Column("position", Integer, nullable=False, comment="Place of its probability in probe_prediction, from 1."),
    Column("train_images", BigInteger, nullable=False, comment="Images that it was fitted to."),
    UniqueConstraint("probe_id", "position"),
    comment="The classes that a probe can predict.",
)

probe_prediction = Table(
    "probe_prediction",
    metadata,
    Column("probe_id", BigInteger, ForeignKey(probe_run.c.probe_id, ondelete="CASCADE"), primary_key=True),
    Column("image_id", BigInteger, ForeignKey(image.c.image_id, ondelete="CASCADE"), primary_key=True, index=True),
    Column("label_id", BigInteger, ForeignKey(label.c.label_id), nullable=False, comment="The image's own label."),
    Column("predicted_label_id", BigInteger, ForeignKey(label.c.label_id), nullable=False),
    Column("probabilities", ARRAY(Double), nullable=False, comment="Of each class, in the order of probe_class."),
    comment="What a probe predicts for one test image; its figures are views over this table.",
)
