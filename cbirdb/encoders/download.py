"""Downloads one file from plain addresses: resumes, tries the next address, and keeps what arrived for the next time."""

from __future__ import annotations

import errno
import http.client
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cbirdb.errors import EncoderError
from cbirdb.progress import Progress
from cbirdb.version import __version__

log = logging.getLogger(__name__)

PROJECT = "https://arxiv.org/abs/2403.06567"
USER_AGENT = f"cbirdb/{__version__} (+{PROJECT})"
SILENCE = 30.0
"""Seconds without a byte after which a download is given up."""
TRIES = 3
"""Attempts in a row at one address that bring nothing new."""
PAUSE = 2.0
"""Seconds before a further attempt."""
CHUNK = 1 << 20

STORAGE = frozenset({
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR, errno.EISDIR,
})  # fmt: skip
"""Errors of a folder that is full, read-only or damaged; those of the network have others."""


class _BrokenOffError(Exception):
    """The connection ended before the file did."""


def is_storage_error(error: BaseException) -> bool:
    """Return True for an error of writing files, not of the network."""
    return isinstance(error, OSError) and error.errno in STORAGE and not isinstance(error, urllib.error.URLError)


@contextmanager
def translated_storage_errors(folder: Path) -> Iterator[None]:
    """Translate errors of a folder that is full or may not be written.

    :raises EncoderError: naming the folder.
    """
    try:
        yield
    except OSError as error:
        if not is_storage_error(error):
            raise
        raise EncoderError(
            f"The folder {folder} cannot take the weights: {error.strerror}.",
            hint="Free space there or change its rights, or choose another folder with --to.",
        ) from error


def download(addresses: Sequence[str], arriving: Path, progress: Progress) -> str | None:
    """Download a file from the first address that gives it; continue what an earlier attempt left.

    :returns: why it failed at each address, as a clause, or None if the file is complete.
    :raises OSError: when the file cannot be written.
    """
    reasons = []
    for address in addresses:
        reason = _from_address(address, arriving, progress)
        if reason is None:
            return None
        log.info("%s: %s", address, reason)
        reasons.append(reason if len(addresses) == 1 else f"{address} {reason}")
    return "; ".join(reasons)


def _from_address(address: str, arriving: Path, progress: Progress) -> str | None:
    """Try until the file is complete, or several attempts in a row bring nothing; return why."""
    failures = 0
    while True:
        before = _size(arriving)
        try:
            _continue(address, arriving, progress)
            return None
        except urllib.error.HTTPError as error:
            reason, is_final = f"answers with status {error.code}", error.code < 500
        except _BrokenOffError:
            reason, is_final = "ends the connection before the file is complete", False
        except TimeoutError:
            reason, is_final = f"sends nothing for {SILENCE:.0f} seconds", True
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            if is_storage_error(error):
                raise
            inner = getattr(error, "reason", error)
            is_final = _size(arriving) == before
            reason = f"cannot be reached ({getattr(inner, 'strerror', None) or type(inner).__name__})"
        failures = 0 if _size(arriving) > before else failures + 1
        if is_final or failures >= TRIES:
            return reason
        time.sleep(PAUSE if failures else 0)


def _continue(address: str, arriving: Path, progress: Progress) -> None:
    """Ask for the rest of the file and append it."""
    start = _size(arriving)
    headers = {"User-Agent": USER_AGENT} | ({"Range": f"bytes={start}-"} if start else {})
    request = urllib.request.Request(address, headers=headers)  # noqa: S310 (records hold https:// only)
    try:
        # Build it anew: the library's own keeps the proxies of its first use.
        answer = urllib.request.build_opener().open(request, timeout=SILENCE)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        # Nothing is left to send, or the rest is that of another file: the SHA-256 decides.
        if error.headers.get("Content-Range", "").endswith(f"/{start}"):
            return
        arriving.unlink()
        raise _BrokenOffError from error
    with answer:
        if answer.status != 206 or not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            start = 0  # the server sends the whole file
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length is not None else None
        size = f"{total / 1e6:,.1f} MB" if total is not None else "of unknown size"
        rest = f", of which {start / 1e6:,.1f} MB are here" if start else ""
        progress.note(f"Downloading {address}: {size}{rest}.")
        with (
            progress.task("downloading", total=total, unit="bytes") as task,
            arriving.open("ab" if start else "wb") as file,
        ):
            done = start
            task.update(done=done)
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                done += len(chunk)
                task.update(done=done)
    if total is not None and done < total:
        raise _BrokenOffError


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
