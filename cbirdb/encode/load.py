"""Loads encoders and checks that they still compute what their stored embeddings hold."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import psycopg

from cbirdb.config import Settings
from cbirdb.db.embeddings import StoredEncoder, check_provenance, find_encoder
from cbirdb.db.known_encoders import added_encoders
from cbirdb.encoders.base import DType, Encoder, LoadOptions
from cbirdb.encoders.fetch import fetch
from cbirdb.encoders.golden import SMALLEST_COSINE
from cbirdb.encoders.own_gpu import own_gpu
from cbirdb.encoders.registry import get_spec, has_files, identified_spec, load_encoder
from cbirdb.errors import EncoderError
from cbirdb.parallel.machine import machine_cpus
from cbirdb.parallel.shards import local_rank
from cbirdb.pixels.rendering import Rendering
from cbirdb.progress import SILENT, Progress
from cbirdb.vectors.normalize import cosine, l2_normalize


def machine_options(
    settings: Settings, weights: str | os.PathLike[str] | None, device: str, *, allow_other_weights: bool = False
) -> LoadOptions:
    """Say where encoders' weights are on this machine, on what to run them, and if other weights than theirs may run."""
    return LoadOptions(
        weights=Path(weights) if weights is not None else None,
        store=settings.weights_folder,
        device=own_gpu(device, local_rank(os.environ)),
        allow_other_weights=allow_other_weights,
        threads=machine_cpus(),
    )


def fetch_missing(connection: psycopg.Connection, names: Sequence[str], options: LoadOptions) -> None:
    """Download the weights of encoders whose files are not on this machine.

    :raises EncoderError: when the network fails.
    """
    added = added_encoders(connection)
    for spec in [get_spec(name, added) for name in dict.fromkeys(names)]:
        if spec.weights is not None and options.store is not None and not has_files(spec, options):
            fetch(spec, options.store)


def load_encoders(
    connection: psycopg.Connection,
    names: Sequence[str],
    options: LoadOptions,
    *,
    dtype: DType | None = None,
    progress: Progress = SILENT,
) -> list[Encoder]:
    """Load encoders, each once.

    :param dtype: None: the number format of their stored embeddings, or float32 without any.
    :raises UnknownNameError: before any is loaded.
    :raises EncoderError: when libraries or weights are missing.
    """
    added = added_encoders(connection)
    specs = [get_spec(name, added) for name in dict.fromkeys(names)]
    encoders = []
    for number, spec in enumerate(specs, start=1):
        with progress.task(f"loading {spec.name} ({number} of {len(specs)})", total=None, unit="stages") as task:
            stored = find_encoder(connection, identified_spec(spec, options).name)
            before = stored.provenance.get("dtype") if stored is not None else None
            chosen = replace(options, dtype=dtype or before or "float32", on_stage=task.stage)
            encoders.append(load_encoder(spec, chosen))
    return encoders


def identified_name(connection: psycopg.Connection, name: str, options: LoadOptions) -> str:
    """Return the name that an encoder runs under, which other weights than its own extend.

    :raises EncoderError: when weights are missing or cannot be read.
    """
    return identified_spec(get_spec(name, added_encoders(connection)), options).name


def check_same_encoder(stored: StoredEncoder, encoder: Encoder) -> None:
    """Refuse an encoder that did not make the vectors stored under its name.

    Weights, preprocessing and number format must be the same. Library versions and the kind of device may differ if one
    fixed picture still gets the same embedding.

    :raises EncoderError: naming the difference.
    """
    check_interpolation(stored, encoder)
    check_provenance(stored, {
        "weights_sha256": encoder.provenance.weights_sha256,
        "preprocessing_sha256": encoder.provenance.preprocessing_sha256,
        "dtype": encoder.provenance.dtype,
    })  # fmt: skip
    check_rendering(stored, encoder)
    if stored.golden_embedding is None:
        return
    found = golden_cosine(stored, encoder)
    if found < SMALLEST_COSINE[encoder.provenance.dtype]:
        changed = "; ".join(provenance_differences(stored, encoder)) or "no other recorded difference"
        raise EncoderError(
            f"'{stored.name}' no longer computes its stored embeddings: a fixed test picture is now at cosine"
            f" {found:.5f} to its embedding from then ({changed}).",
            hint=f"Restore the earlier software, or start anew: cbirdb encoders drop {stored.name}",
        )


def check_interpolation(stored: StoredEncoder, encoder: Encoder) -> None:
    """Refuse DINOv2 whose position embeddings are resized in another way than for the stored vectors.

    :raises EncoderError: saying which way each uses.
    """
    before, now = (
        options.get("interpolate_offset") for options in (stored.spec.get("options", {}), encoder.spec.options)
    )
    if before == now or stored.preprocessing_sha256 in (None, encoder.provenance.preprocessing_sha256):
        return
    ways = [
        f"with the offset {offset}" if offset else "to the exact size, without an offset" for offset in (before, now)
    ]
    raise EncoderError(
        f"The stored embeddings of '{stored.name}' were computed with position embeddings interpolated {ways[0]}; its"
        f" record now says {ways[1]}. The vectors differ, so the two cannot be compared.",
        hint=f"Encode the images anew: cbirdb encoders drop {stored.name}; cbirdb encode -e {stored.name}",
    )


def check_rendering(stored: StoredEncoder, encoder: Encoder) -> None:
    """Refuse an encoder that is shown DICOM images in another way than those whose vectors are stored.

    :raises EncoderError: when its rendering is another one.
    """
    rendering = Rendering.parse(encoder.spec.rendering)
    if stored.rendering_sha256 not in (None, rendering.sha256):
        raise EncoderError(
            f"The stored DICOM images of '{stored.name}' were not encoded with the rendering '{rendering}' of this"
            " version, so the two cannot be compared.",
            hint="Use the same rendering, or another encoder name for this one.",
        )


def golden_cosine(stored: StoredEncoder, encoder: Encoder) -> float:
    """Return the cosine between the fixed picture's embedding now and at the encoder's first use."""
    now, _ = l2_normalize(encoder.golden[None])
    return cosine(now[0], stored.golden_embedding or ())


def provenance_differences(stored: StoredEncoder, encoder: Encoder) -> list[str]:
    """Describe the library versions, device kind and runtime that differ from the first use."""
    then, now = stored.provenance, encoder.provenance
    versions: dict[str, str] = dict(then.get("libraries") or {})
    pairs = [(name, versions.get(name), version) for name, version in now.libraries.items()]
    pairs.append(("device", then.get("device"), now.device))
    if now.weights_sha256 is not None:
        pairs.append(("runtime", then.get("runtime", "torch"), now.runtime))
    return [f"{name} {after}, then {before}" for name, before, after in pairs if before is not None and before != after]
