"""Downloads a model's files: the only code that uses the network, and only when called.

Each encoder has one folder, which can be copied to a machine without internet. The folder holds a list of its files and
their checksums (``cbirdb-weights.json``), which ``encoders verify`` compares.
"""

from __future__ import annotations

import logging
import shutil
import threading
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cbirdb.encoders.base import WeightFiles, hash_files
from cbirdb.encoders.download import PROJECT, download, is_storage_error, translated_storage_errors
from cbirdb.encoders.manifest import MANIFEST, changed_files, read_manifest, write_manifest
from cbirdb.encoders.packages import installed_package, is_package, package_folder
from cbirdb.encoders.registry import get_family
from cbirdb.encoders.spec import EncoderSpec
from cbirdb.encoders.weights import find_weights, is_address, is_local
from cbirdb.errors import EncoderError
from cbirdb.progress import SILENT, Progress
from cbirdb.version import __version__

log = logging.getLogger(__name__)

HUB_TIMEOUT = 5.0
"""Seconds that the hub has for its first answer."""


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


def fetch(spec: EncoderSpec, to: Path, *, progress: Progress = SILENT) -> Fetched:
    """Download the encoder's missing files into ``to/<name>``. What came with a package stays there.

    :raises EncoderError: when there is nothing to fetch, the network fails, the folder cannot be written, or the
        downloaded file is not the recorded one.
    """
    if spec.weights is None:
        raise EncoderError(f"'{spec.name}' has no weights: there is nothing to fetch.")
    if "@" in spec.name:
        raise EncoderError(f"'{spec.name}' stands for weights of your own: there is nothing to fetch.")
    if is_local(spec):
        raise EncoderError(f"'{spec.name}' was added with the folder {spec.weights} of this machine: copy that folder.")
    family = get_family(spec)
    if is_package(spec):
        installed, (name,) = package_folder(spec, family.FILES), family.FILES.weights
        return Fetched(installed, {}, {name: hash_files([installed / name])}, installed_package(spec))
    folder = to / spec.base_name
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EncoderError(
            f"The folder {folder} cannot be created: {error.strerror}.", hint="Choose another --to."
        ) from error
    try:
        with translated_storage_errors(folder):
            _discard_changed(folder)
            commits = _fetch_all(spec, folder, family, progress)
            _check_hash(spec, find_weights(spec, folder, family.FILES))
            manifest = write_manifest(folder, spec.base_name, commits)
    finally:
        if is_new and not any(folder.iterdir()):
            folder.rmdir()  # nothing came
    return Fetched(folder, manifest.commits, manifest.files)


def _fetch_all(spec: EncoderSpec, folder: Path, family: Any, progress: Progress) -> dict[str, str]:
    """Download the files of the record's source and of further repositories; return the sources and their commits."""
    source = str(spec.weights)
    if is_address(spec):
        _fetch_file(spec, folder, family.FILES.weights[0], progress)
        return {source: str(spec.revision)}
    commits = {source: _fetch_repository(spec, source, spec.revision, folder, family.FILES, progress)}
    find_weights(spec, folder, family.FILES)
    for companion in family.companions(spec, folder) if hasattr(family, "companions") else ():
        commits[companion.repository] = _fetch_repository(
            spec, companion.repository, companion.revision, folder / companion.folder,
            WeightFiles(companion.patterns, ()), progress,
        )  # fmt: skip
    return commits


def _check_hash(spec: EncoderSpec, weights: Path) -> None:
    """Refuse and delete weights that are not those of the record."""
    if spec.files and (found := hash_files([weights])) not in spec.files.values():
        weights.unlink()
        raise _other_content(spec, str(spec.weights), found, next(iter(spec.files.values())))


def _other_content(spec: EncoderSpec, source: str, found: str, wanted: str) -> EncoderError:
    return EncoderError(
        f"{source} has another content than recorded for '{spec.name}': SHA-256 {found[:12]}..., not"
        f" {wanted[:12]}...; the download was deleted.",
        hint="Try again. If the message stays, the file was exchanged at its source, or HF_ENDPOINT names a bad mirror.",
    )


def _other_ways(spec: EncoderSpec) -> str:
    return (
        f"The files downloaded so far are kept. Without internet, run `cbirdb encoders fetch {spec.base_name} --to DIR`"
        " on another machine, copy DIR here, and pass it as --weights DIR."
    )


def _fetch_repository(
    spec: EncoderSpec, repository: str, revision: str | None, folder: Path, files: WeightFiles, progress: Progress
) -> str:
    """Download the files of one repository, all of one commit; return the commit."""
    import huggingface_hub as hub

    try:
        api = hub.HfApi(library_name="cbirdb", library_version=__version__, user_agent=f"(+{PROJECT})")
        # Ask this one question first: without a network, a download retries for 20 seconds to some minutes.
        info = api.model_info(repository, revision=revision, timeout=HUB_TIMEOUT, files_metadata=True)
        sizes = {file.rfilename: file.size for file in info.siblings or ()}
        _discard_other_commit(folder, repository, str(info.sha))
        wanted = [*files.needed, *[name for name in files.weights if name in sizes][:1]]
        log.info("downloading %s at commit %s from %s", repository, info.sha, hub.constants.ENDPOINT)
        with _silenced_hub(), _shown(folder, repository, str(info.sha), _total(sizes, wanted), progress):
            api.snapshot_download(repository, revision=info.sha, allow_patterns=wanted, local_dir=folder)
        return str(info.sha)
    # Proxies, certificates and name servers fail in their own ways. None of them is our defect.
    except Exception as error:
        if is_storage_error(error):
            raise
        raise EncoderError(
            f"The repository '{repository}' of '{spec.name}' cannot be fetched: {_hub_reason(error)}.",
            hint=_other_ways(spec),
        ) from error


def _total(sizes: Mapping[str, int | None], patterns: list[str]) -> int | None:
    """Return the bytes of the files to download; None if the hub does not say."""
    found = [size for name, size in sizes.items() if any(Path(name).match(pattern) for pattern in patterns)]
    return sum(size or 0 for size in found) or None


@contextmanager
def _shown(folder: Path, repository: str, commit: str, total: int | None, progress: Progress) -> Iterator[None]:
    """Show how much has arrived, by the sizes of the files: the hub's library has several ways to transfer."""
    import huggingface_hub as hub

    if progress is SILENT:
        yield
        return
    size = f"{total / 1e6:,.1f} MB" if total else "of unknown size"
    progress.note(f"Downloading {repository} at commit {commit[:12]} from {hub.constants.ENDPOINT}: {size}.")
    ended = threading.Event()
    with progress.task(f"downloading {repository}", total=total, unit="bytes") as task:

        def watch() -> None:
            while not ended.wait(0.5):
                task.update(done=min(_bytes(folder), total or _bytes(folder)))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()


@contextmanager
def _silenced_hub() -> Iterator[None]:
    """Hide the bars of the hub's library, and its warning of a full disk, which is told in one sentence when it is full."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    own_bars = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Not enough free disk space")
            yield
    finally:
        if own_bars:
            enable_progress_bars()


def _bytes(folder: Path) -> int:
    """Return the bytes of a folder's files, of which some may vanish meanwhile."""
    found = 0
    for path in folder.rglob("*"):
        try:
            found += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return found


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


def _fetch_file(spec: EncoderSpec, folder: Path, name: str, progress: Progress) -> None:
    """Download the one file of a record that names its address, or unpack it from a zip archive."""
    address, target = str(spec.weights), folder / name
    if target.is_file() and (folder / MANIFEST).is_file():
        return
    arriving = folder / (address.rsplit("/", 1)[1] + ".partial")
    for resumed in (arriving.is_file(), False):
        reason = download([address, *spec.mirrors], arriving, progress)
        if reason is not None:
            raise EncoderError(
                f"The file {address} of '{spec.name}' cannot be fetched: {'it ' if not spec.mirrors else ''}{reason}.",
                hint=_other_ways(spec),
            )
        if (found := hash_files([arriving])) == spec.revision:
            break
        arriving.unlink()
        if not resumed:  # else the beginning may have been that of another file
            raise _other_content(spec, address, found, str(spec.revision))
    if address.endswith(".zip"):
        _unpack(spec, arriving, target)
        arriving.unlink()
    else:
        arriving.replace(target)


def _unpack(spec: EncoderSpec, packed: Path, target: Path) -> None:
    """Take the weights out of an archive, and nothing else."""
    try:
        with zipfile.ZipFile(packed) as archive:
            member = next((info for info in archive.infolist() if Path(info.filename).name == target.name), None)
            if member is None:
                raise EncoderError(f"The archive {spec.weights} of '{spec.name}' has no file {target.name}.")
            with archive.open(member) as content, target.open("wb") as unpacked:
                shutil.copyfileobj(content, unpacked)
    except zipfile.BadZipFile as error:
        raise EncoderError(f"The archive {spec.weights} of '{spec.name}' is no zip file.") from error


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
    fetched = read_manifest(folder)
    if fetched is not None and fetched.commits.get(repository, commit) != commit:
        (folder / MANIFEST).unlink()
        for name in fetched.files:
            (folder / name).unlink(missing_ok=True)
