"""Downloads a model's files: the only code that uses the network, and only when called.

Each encoder has one folder, which can be copied to a machine without internet. The folder holds a list of its files and
their checksums (``cbirdb-weights.json``), which ``encoders verify`` compares.
"""

from __future__ import annotations

import json
import logging
import shutil
import socket
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cbirdb.encoders.base import WeightFiles, hash_files
from cbirdb.encoders.packages import installed_package, is_package, package_folder
from cbirdb.encoders.registry import get_family
from cbirdb.encoders.spec import EncoderSpec
from cbirdb.encoders.weights import find_weights, is_address, is_local
from cbirdb.errors import EncoderError

log = logging.getLogger(__name__)

MANIFEST = "cbirdb-weights.json"
HUB_TIMEOUT = 5.0
"""Seconds that the hub has for its first answer."""
SILENCE = 30.0
"""Seconds without a byte after which a download is given up."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """The files downloaded for one encoder."""

    folder: Path
    commits: Mapping[str, str]
    """Repository -> commit, or address -> SHA-256."""
    files: Mapping[str, str]
    """File, relative to the folder -> SHA-256."""
    package: str | None = None
    """Installed package that the files came with, and its version. None: they were downloaded."""

    @property
    def size_bytes(self) -> int:
        """Return the bytes of all files together."""
        return sum((self.folder / name).stat().st_size for name in self.files)


def fetch(spec: EncoderSpec, to: Path) -> Fetched:
    """Download the encoder's missing files into ``to/<name>``. What came with a package stays there.

    :raises EncoderError: when there is nothing to fetch, the network fails, or the downloaded file is not the recorded
        one.
    """
    if spec.weights is None:
        raise EncoderError(f"'{spec.name}' has no weights: there is nothing to fetch.")
    if is_local(spec):
        raise EncoderError(f"'{spec.name}' was added with the folder {spec.weights} of this machine: copy that folder.")
    family = get_family(spec)
    if is_package(spec):
        installed, (name,) = package_folder(spec, family.FILES), family.FILES.weights
        return Fetched(installed, {}, {name: hash_files([installed / name])}, installed_package(spec))
    folder = to / spec.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EncoderError(
            f"The folder {folder} cannot be created: {error.strerror}.", hint="Choose another --to."
        ) from error
    _discard_changed(folder)
    commits: dict[str, str] = {}
    if is_address(spec):
        _fetch_file(spec, folder, family.FILES.weights[0])
        commits[spec.weights] = str(spec.revision)
    else:
        commits[spec.weights] = _fetch_repository(spec, spec.weights, spec.revision, folder, family.FILES)
        find_weights(spec, folder, family.FILES)
        for companion in family.companions(spec, folder) if hasattr(family, "companions") else ():
            target = folder / companion.folder
            wanted = WeightFiles(companion.patterns, ())
            commits[companion.repository] = _fetch_repository(
                spec, companion.repository, companion.revision, target, wanted
            )
    find_weights(spec, folder, family.FILES)
    return _write_manifest(spec, folder, commits)


def _fetch_repository(
    spec: EncoderSpec, repository: str, revision: str | None, folder: Path, files: WeightFiles
) -> str:
    """Download the files of one repository, all of one commit; return the commit."""
    import huggingface_hub as hub

    try:
        # Ask this one question first: without a network, a download retries for 20 seconds to some minutes.
        info = hub.HfApi().model_info(repository, revision=revision, timeout=HUB_TIMEOUT)
        offered = {file.rfilename for file in info.siblings or ()}
        _discard_other_commit(folder, repository, str(info.sha))
        wanted = [*files.needed, *[name for name in files.weights if name in offered][:1]]
        log.info("downloading %s at commit %s from %s", repository, info.sha, hub.constants.ENDPOINT)
        hub.snapshot_download(repository, revision=info.sha, allow_patterns=wanted, local_dir=folder)
        return str(info.sha)
    # Proxies, certificates, name servers and full disks fail in their own ways. None of them is our defect.
    except Exception as error:
        raise EncoderError(
            f"The repository '{repository}' of '{spec.name}' cannot be fetched: {_hub_reason(error)}.",
            hint=f"The files downloaded so far are kept. Without internet, run `cbirdb encoders fetch {spec.name} --to DIR`"
            " on another machine, copy DIR here, and pass it as --weights DIR.",
        ) from error


def _hub_reason(error: Exception) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE forbids asking the model hub"
    if isinstance(error, errors.GatedRepoError):
        return (
            "its owners ask you to accept their terms first, on its page at the hub; then log in with `hf auth login`"
        )
    if isinstance(error, errors.HfHubHTTPError) and error.response is not None:
        return f"the model hub answers with status {error.response.status_code}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"the model hub cannot be reached, or the download broke off ({type(error).__name__})"


def _fetch_file(spec: EncoderSpec, folder: Path, name: str) -> None:
    """Download the one file of a record that names its address, or unpack it from a zip archive."""
    import torch

    address, target = str(spec.weights), folder / name
    if target.is_file() and (folder / MANIFEST).is_file():
        return
    arriving = folder / (address.rsplit("/", 1)[1] + ".partial")
    try:
        log.info("downloading %s", address)
        with _limited_silence():
            torch.hub.download_url_to_file(address, str(arriving), progress=True)
    except Exception as error:
        raise EncoderError(
            f"The file {address} of '{spec.name}' cannot be fetched ({type(error).__name__}).",
            hint=f"Without internet, run `cbirdb encoders fetch {spec.name} --to DIR` on another machine,"
            " copy DIR here, and pass it as --weights DIR.",
        ) from error
    if (found := hash_files([arriving])) != spec.revision:
        arriving.unlink()
        raise EncoderError(
            f"{address} has another content than recorded for '{spec.name}': SHA-256 {found[:12]}..., not"
            f" {str(spec.revision)[:12]}...; the download was deleted.",
            hint="Try again. If the message stays, the file was exchanged at its source.",
        )
    if zipfile.is_zipfile(arriving) and address.endswith(".zip"):
        with zipfile.ZipFile(arriving) as archive:
            member = next((info for info in archive.infolist() if Path(info.filename).name == name), None)
            if member is None:
                raise EncoderError(f"The archive {address} of '{spec.name}' has no file {name}.")
            with archive.open(member) as packed, target.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
        arriving.unlink()
    else:
        arriving.replace(target)


def _write_manifest(spec: EncoderSpec, folder: Path, commits: Mapping[str, str]) -> Fetched:
    names = sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and not _is_beside(path.relative_to(folder))
    )
    files = {name: hash_files([folder / name]) for name in names}
    manifest: dict[str, Any] = {"encoder": spec.name, "commits": dict(commits), "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return Fetched(folder, commits, files)


def _is_beside(path: Path) -> bool:
    """Return True for the list itself, the hub library's notes, and the rest of a killed download."""
    return ".cache" in path.parts or path.name == MANIFEST or path.suffix == ".partial"


def _discard_changed(folder: Path) -> None:
    """Delete changed files, so that they are downloaded again: the hub's library compares only times."""
    try:
        _, bad = changed_files(folder) or (0, [])
    except EncoderError:
        (folder / MANIFEST).unlink()
        return
    for name in bad:
        (folder / name).unlink(missing_ok=True)


def _discard_other_commit(folder: Path, repository: str, commit: str) -> None:
    """Delete files of another commit, which would be taken for this commit's if the hub failed halfway."""
    path = folder / MANIFEST
    if not path.is_file():
        return
    fetched = json.loads(path.read_text())
    if fetched["commits"].get(repository, commit) != commit:
        path.unlink()
        for name in fetched["files"]:
            (folder / name).unlink(missing_ok=True)


@contextmanager
def _limited_silence() -> Iterator[None]:
    """Set a timeout on sockets: PyTorch waits for ever for a server that accepts and then sends nothing."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def changed_files(folder: Path) -> tuple[int, list[str]] | None:
    """Return the number of files in the list, and those that are missing or differ from their checksum.

    Return None if the folder has no list, because something else filled it.

    :raises EncoderError: when the list cannot be read.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        files: dict[str, str] = dict(json.loads(path.read_text())["files"].items())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EncoderError(f"The list {path} is damaged.", hint="Fetch the encoder again.") from error
    bad = [
        name for name, digest in files.items() if not (folder / name).is_file() or hash_files([folder / name]) != digest
    ]
    return len(files), bad
