"""Verifies that an encoder is unchanged: files against their list, hashes and one fixed picture against the first
use.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psycopg

from cbirdb.db.embeddings import find_encoder
from cbirdb.encode.load import golden_cosine, load_encoders, provenance_differences
from cbirdb.encoders.base import LoadOptions
from cbirdb.encoders.golden import SMALLEST_COSINE
from cbirdb.encoders.identity import confirmation, known_sha256
from cbirdb.encoders.manifest import changed_files
from cbirdb.encoders.onnx_folder import changed_export_files, find_export, read_export
from cbirdb.encoders.packages import is_package
from cbirdb.encoders.registry import get_family
from cbirdb.encoders.spec import EncoderSpec
from cbirdb.encoders.weights import find_folder
from cbirdb.progress import SILENT, Progress


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison and its result."""

    check: str
    expected: str
    found: str
    ok: bool | None
    """None: there is no value to compare with."""


def verify_encoder(
    connection: psycopg.Connection, spec: EncoderSpec, options: LoadOptions, progress: Progress = SILENT
) -> list[Check]:
    """Compare an encoder with its downloaded files and with the values stored when it first encoded.

    :raises EncoderError: when it cannot be loaded.
    """
    checks = [_files(spec, options)] if spec.weights is not None and not is_package(spec) else []
    if any(check.ok is False for check in checks):
        return checks  # changed weights would be refused, and changed settings make other embeddings
    (encoder,) = load_encoders(connection, [spec.name], options, progress=progress)
    stored = find_encoder(connection, encoder.spec.name)
    computed = stored is not None and stored.golden_embedding is not None
    current = encoder.provenance
    if current.weights_sha256 is not None and confirmation(spec, options.store or Path()) is not None:
        folder = find_export(spec, options) or find_folder(spec, get_family(spec).FILES, options)
        known = known_sha256(spec, folder, options.store)
        right = current.weights_sha256 in known if known and encoder.spec.name == spec.name else None
        checks.append(Check("owners' weights", min(known, default="not yet confirmed"), current.weights_sha256, right))
    for name, before, now in (
        ("weights", stored.weights_sha256 if stored else None, current.weights_sha256),
        ("preprocessing", stored.preprocessing_sha256 if stored else None, current.preprocessing_sha256),
    ):
        if now is not None:
            checks.append(Check(name, before or _unused(computed), now, before == now if before else None))
    if stored is None or stored.golden_embedding is None:
        checks.append(Check("golden embedding", _unused(computed), f"{encoder.dim} numbers", None))
        return checks
    cosine, smallest = golden_cosine(stored, encoder), SMALLEST_COSINE[current.dtype]
    changed = (
        f" ({'; '.join(provenance_differences(stored, encoder))})" if provenance_differences(stored, encoder) else ""
    )
    checks.append(Check("golden embedding", f"cosine >= {smallest}", f"{cosine:.6f}{changed}", cosine >= smallest))
    return checks


def _unused(computed: bool) -> str:
    return "" if computed else "nothing stored: the encoder has not run in this database yet"


def _files(spec: EncoderSpec, options: LoadOptions) -> Check:
    if (exported := find_export(spec, options)) is not None:
        export = read_export(spec, exported)
        changed = changed_export_files(export, exported)
        result = f"changed or missing: {', '.join(changed)}" if changed else "as exported"
        return Check("files", f"{len(export.files)} as exported", result, not changed)
    folder = find_folder(spec, get_family(spec).FILES, options)
    found = changed_files(folder)
    if found is None:
        return Check("files", "no list: `encoders fetch` did not download them", str(folder), None)
    count, bad = found
    result = f"changed or missing: {', '.join(bad)}" if bad else "as fetched"
    return Check("files", f"{count} as fetched", result, not bad)
