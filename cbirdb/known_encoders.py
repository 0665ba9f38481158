"""All encoders that can be named: those that ship with cbirdb, and those that were added to a database."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg

from cbirdb.db.embeddings import StoredEncoder, check_provenance, find_encoder, get_encoder, stored_tables, table_name
from cbirdb.db.encoder_records import insert_record, stored_records
from cbirdb.encoders.base import DType, Encoder, EncoderSpec, LoadOptions, TrainingScheme
from cbirdb.encoders.fetch import fetch
from cbirdb.encoders.golden import SMALLEST_COSINE
from cbirdb.encoders.registry import LOADERS, get_spec, is_here, load_encoder
from cbirdb.encoders.shipped import SHIPPED
from cbirdb.errors import EncoderError, InputError
from cbirdb.vectors import cosine, l2_normalize


def known_encoders(connection: psycopg.Connection) -> dict[str, EncoderSpec]:
    """Records by name: the shipped ones, then the added ones."""
    return {**SHIPPED, **added_encoders(connection)}


def stored_encoder(connection: psycopg.Connection, name: str) -> StoredEncoder:
    """The encoder of that name, with embeddings in this database.

    :raises UnknownNameError: when the name means nothing.
    :raises InputError: when the encoder is known but has no embeddings here yet.
    """
    return get_encoder(connection, name, also_known=list(known_encoders(connection)))


def added_encoders(connection: psycopg.Connection) -> dict[str, EncoderSpec]:
    """Records that were added to this database, by name."""
    return {name: EncoderSpec.from_json(spec) for name, spec in stored_records(connection).items()}


def fetch_missing(connection: psycopg.Connection, names: Sequence[str], options: LoadOptions) -> None:
    """Bring the weights of those encoders whose files are not on this machine.

    :raises EncoderError: when the network fails.
    """
    added = added_encoders(connection)
    for spec in [get_spec(name, added) for name in dict.fromkeys(names)]:
        if spec.weights is not None and options.store is not None and not is_here(spec, options):
            fetch(spec, options.store)


def load_encoders(
    connection: psycopg.Connection, names: Sequence[str], options: LoadOptions, *, dtype: DType | None = None
) -> list[Encoder]:
    """Make encoders ready to run, each once.

    :param dtype: None: what their stored embeddings were computed in, float32 where there are none.
    :raises UnknownNameError: before any is loaded.
    :raises EncoderError: when libraries or weights cannot be had.
    """
    added = added_encoders(connection)
    specs = [get_spec(name, added) for name in dict.fromkeys(names)]
    encoders = []
    for spec in specs:
        stored = find_encoder(connection, spec.name)
        before = stored.provenance.get("dtype") if stored is not None else None
        encoders.append(load_encoder(spec, replace(options, dtype=dtype or before or "float32")))
    return encoders


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
) -> EncoderSpec:
    """The record of an encoder that one of the general loaders can run.

    :param weights: repository at the hub, or a folder of this machine.
    :raises InputError: when the parts do not go together.
    """
    if name in SHIPPED:
        raise InputError(f"'{name}' is an encoder that ships with cbirdb.", hint="Choose another name.")
    table_name(name)  # the name must make a table name, too, and a folder's
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(f"'{name}' cannot name an encoder.", hint="Use 1 to 40 letters, digits and hyphens.")
    folder = Path(weights).expanduser()
    if weights and folder.is_dir():
        weights = str(folder.resolve())
    elif not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*", weights):
        raise InputError(
            f"'{weights}' is neither a folder of this machine nor a repository at the model hub.",
            hint="A repository is OWNER/NAME, such as microsoft/rad-dino; a folder has to be there already.",
        )
    options: dict[str, Any] = {}
    if pooling is not None:
        if loader != "hf":
            raise InputError(f"--pooling is for the loader hf; {loader} models say themselves how they pool.")
        options["pooling"] = pooling
    if quick_gelu:
        if loader != "open_clip":
            raise InputError("--quick-gelu is for the loader open_clip.")
        options["quick_gelu"] = True
    embeddings = {
        "hf": f"{pooling or 'cls'} of the transformers model",
        "open_clip": "encode_image",
        "timm": "pooled features",
    }
    return EncoderSpec(
        name=name, family=LOADERS[loader], dim=dim, embedding=embeddings[loader], preprocessing="the model's own",
        licence=licence, training_scheme=training_scheme, citation=citation, weights=weights,
        revision=revision if not folder.is_dir() else None, options=options,
    )  # fmt: skip


def add_encoder(connection: psycopg.Connection, spec: EncoderSpec) -> None:
    """Store a record, so that it can be used by name.

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


def check_same_encoder(stored: StoredEncoder, encoder: Encoder) -> None:
    """Refuse to compare what this encoder computes with vectors that are stored under its name, unless it made them.

    Weights, preprocessing and number format must be the same. Library versions and the kind of device may differ as
    long as one fixed picture comes out the same.

    :raises EncoderError: saying what differs.
    """
    check_provenance(stored, {
        "weights_sha256": encoder.provenance.weights_sha256,
        "preprocessing_sha256": encoder.provenance.preprocessing_sha256,
        "dtype": encoder.provenance.dtype,
    })  # fmt: skip
    if stored.golden_embedding is None:
        return
    found = golden_cosine(stored, encoder)
    if found < SMALLEST_COSINE[encoder.provenance.dtype]:
        changed = "; ".join(differences(stored, encoder)) or "nothing else that is recorded differs"
        raise EncoderError(
            f"'{stored.name}' does not compute what it did when its stored embeddings were made: one fixed picture"
            f" comes out at cosine {found:.5f} to the embedding of that time ({changed}).",
            hint=f"Go back to what made them, or start anew: cbirdb encoders drop {stored.name}",
        )


def golden_cosine(stored: StoredEncoder, encoder: Encoder) -> float:
    """Cosine of the fixed picture's embedding now and when the encoder was first used."""
    now, _ = l2_normalize(encoder.golden[None])
    return cosine(now[0], stored.golden_embedding or ())


def differences(stored: StoredEncoder, encoder: Encoder) -> list[str]:
    """Library versions and device kind that are not those of the first use, in words."""
    then, now = stored.provenance, encoder.provenance
    versions: dict[str, str] = dict(then.get("libraries") or {})
    pairs = [(name, versions.get(name), version) for name, version in now.libraries.items()]
    pairs.append(("device", then.get("device"), now.device))
    return [f"{what} {after}, then {before}" for what, before, after in pairs if before is not None and before != after]
