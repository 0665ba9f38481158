"""Makes a folder of fetched encoders an offline bundle: a list of their lists, which shows what a copy lost or changed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cbirdb.encoders.base import hash_files
from cbirdb.encoders.download import translated_storage_errors
from cbirdb.encoders.manifest import MANIFEST, changed_files, listed_files, read_manifest
from cbirdb.encoders.shipped import SHIPPED
from cbirdb.errors import EncoderError
from cbirdb.version import __version__

BUNDLE = "cbirdb-bundle.json"


@dataclass(frozen=True, slots=True)
class BundleCheck:
    """The state of one encoder of a bundle."""

    encoder: str
    files: int
    """Files that its list names."""
    found: str
    ok: bool


def write_bundle(folder: Path) -> list[str]:
    """List the encoders whose folders are in a folder; return their names.

    :raises EncoderError: when the folder cannot be written.
    """
    names = sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST}"))
    lists = {name: hash_files([folder / name / MANIFEST]) for name in names}
    with translated_storage_errors(folder):
        (folder / BUNDLE).write_text(json.dumps({"cbirdb": __version__, "encoders": lists}, indent=1) + "\n")
    return names


def verify_bundle(folder: Path) -> list[BundleCheck]:
    """Compare every file of a bundle with its lists, and the weights with the shipped records.

    :raises EncoderError: when the folder is no bundle, or its list cannot be read.
    """
    path = folder / BUNDLE
    if not path.is_file():
        raise EncoderError(
            f"The folder {folder} is no bundle: it has no file {BUNDLE}.",
            hint="Make one on a connected machine: cbirdb encoders fetch --all --to DIR",
        )
    try:
        lists = {str(name): str(digest) for name, digest in json.loads(path.read_text())["encoders"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EncoderError(f"The list {path} is damaged.", hint="Copy the bundle again, or make it anew.") from error
    checks = [_check(folder, name, lists[name]) for name in sorted(lists)]
    extra = sorted(found.name for found in folder.iterdir() if found.name not in {BUNDLE, *lists})
    return checks + [BundleCheck(name, 0, "not in the bundle's list", ok=False) for name in extra]


def _check(folder: Path, name: str, digest: str) -> BundleCheck:
    own = folder / name
    if not own.is_dir():
        return BundleCheck(name, 0, "missing", ok=False)
    if not (own / MANIFEST).is_file() or hash_files([own / MANIFEST]) != digest:
        return BundleCheck(name, 0, f"changed or missing: {MANIFEST}", ok=False)
    manifest = read_manifest(own)
    count, bad = changed_files(own) or (0, [])
    files = manifest.files if manifest is not None else {}
    missing = [file for file in bad if not (own / file).is_file()]
    faults = {
        "missing": missing,
        "changed": [file for file in bad if file not in missing],
        "not listed": [file for file in listed_files(own) if file not in files],
        "not the owners'": [file for file, right in _owners(name).items() if files.get(file, right) != right],
    }
    found = "; ".join(f"{fault}: {', '.join(names)}" for fault, names in faults.items() if names)
    return BundleCheck(name, count, found or "as fetched", ok=not found)


def _owners(name: str) -> dict[str, str]:
    return dict(SHIPPED[name].files) if name in SHIPPED else {}
