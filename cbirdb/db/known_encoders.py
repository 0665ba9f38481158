"""Lists all known encoders: those that ship with cbirdb, and those added to a database."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psycopg

from cbirdb.db.embeddings import StoredEncoder, get_encoder, stored_tables, table_name
from cbirdb.db.encoder_records import insert_record, stored_records
from cbirdb.encoders.shipped import SHIPPED
from cbirdb.encoders.spec import LOADERS, EncoderSpec, TrainingScheme
from cbirdb.errors import InputError, OptionError


def known_encoders(connection: psycopg.Connection) -> dict[str, EncoderSpec]:
    """Return records by name: the shipped ones, then the added ones with other names."""
    added = added_encoders(connection)
    return {**SHIPPED, **{name: added[name] for name in added if name not in SHIPPED}}


def stored_encoder(connection: psycopg.Connection, name: str) -> StoredEncoder:
    """Return the encoder of that name, with embeddings in this database.

    :raises UnknownNameError: when no encoder has that name.
    :raises InputError: when the encoder is known but has no embeddings here yet.
    """
    return get_encoder(connection, name, also_known=list(known_encoders(connection)))


def added_encoders(connection: psycopg.Connection) -> dict[str, EncoderSpec]:
    """Return the records that were added to this database, by name."""
    return {name: EncoderSpec.from_json(spec) for name, spec in stored_records(connection).items()}


def make_record(
    name: str,
    *,
    loader: str,
    weights: str,
    revision: str | None,
    dim: int | None,
    pooling: str | None,
    quick_gelu: bool,
    licence: str,
    training_scheme: TrainingScheme,
    citation: str,
    rendering: str = "as-displayed",
    interpolate_offset: float | None = None,
) -> EncoderSpec:
    """Return the record of an encoder that one of the general loaders can run.

    :param weights: repository at the hub, or a folder of this machine.
    :param rendering: how DICOM is shown to it, as ``cbirdb.pixels.rendering`` reads it.
    :param interpolate_offset: how DINOv2 resizes its position embeddings, as ``cbirdb.encoders.huggingface`` does it.
    :raises InputError: when the parts do not fit together.
    """
    from cbirdb.pixels.rendering import Rendering

    if name in SHIPPED:
        raise InputError(f"'{name}' is an encoder that ships with cbirdb.", hint="Choose another name.")
    table_name(name)  # the name must also make a table name and a folder name
    folder = Path(weights).expanduser()
    if weights and folder.is_dir():
        weights = str(folder.resolve())
    elif not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*", weights):
        raise InputError(
            f"'{weights}' is neither a folder of this machine nor a repository at the model hub.",
            hint="A repository is OWNER/NAME, such as microsoft/rad-dino; a folder must already exist.",
        )
    options: dict[str, Any] = {}
    if pooling is not None:
        if loader != "hf":
            raise OptionError(f"--pooling is for the loader hf; {loader} models define their own pooling.")
        options["pooling"] = pooling
    if quick_gelu:
        if loader != "open_clip":
            raise OptionError("--quick-gelu is for the loader open_clip.")
        options["quick_gelu"] = True
    if interpolate_offset is not None and loader != "hf":
        raise OptionError("--interpolate-offset is for the loader hf.")
    if interpolate_offset:
        options["interpolate_offset"] = interpolate_offset
    embeddings = {
        "hf": f"{pooling or 'cls'} of the transformers model",
        "open_clip": "encode_image",
        "timm": "pooled features",
    }
    return EncoderSpec(
        name=name, family=LOADERS[loader], dim=dim, embedding=embeddings[loader], preprocessing="the model's own",
        licence=licence, training_scheme=training_scheme, citation=citation, weights=weights,
        revision=revision if not folder.is_dir() else None, options=options,
        rendering=str(Rendering.parse(rendering)),
    )  # fmt: skip


def add_encoder(connection: psycopg.Connection, spec: EncoderSpec) -> None:
    """Store a record, so that commands can use it by name.

    :raises InputError: when the name is taken, or would share an embedding table with another.
    """
    table = table_name(spec.name)
    tables = {other: table_name(other) for other in known_encoders(connection)} | stored_tables(connection)
    for other, taken in tables.items():
        if other != spec.name and taken == table:
            raise InputError(
                f"'{spec.name}' would share the table {table} with the encoder '{other}'.",
                hint="Choose a name that differs in more than punctuation.",
            )
    insert_record(connection, spec.name, spec.as_json())
