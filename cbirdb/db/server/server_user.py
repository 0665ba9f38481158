"""Chooses the user that runs the embedded server: this process's own, or another for root, which PostgreSQL refuses."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Protocol

from cbirdb.errors import DatabaseError

log = logging.getLogger(__name__)

SYSTEM_USER = "cbirdb"
"""User that runs the server when root starts it, unless its data belong to another user."""


class ServerUser(Protocol):
    """The user that owns the server's processes and files."""

    def users(self) -> set[int]:
        """Return the ids of users whose folders can be trusted."""

    def hand_over(self, path: Path, mode: int = 0o700) -> None:
        """Restrict ``path`` to this user, and make it reachable for this user."""

    def run_as(self) -> dict[str, Any]:
        """Return the arguments that make ``subprocess.run`` run a program as this user."""

    def readable_install(self, package: Path, install: Path, copies: Path) -> Path:
        """Return PostgreSQL's installation folder, or a copy of it that this user can read.

        :param install: a folder in the folder ``package``.
        :param copies: folder for copies.
        """


def server_user(data: Path) -> ServerUser:
    """Return the user of the server whose data lie in ``data``."""
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    return _UserForRoot(data) if is_root else _CurrentUser()


class _CurrentUser:
    """The user of this process, who is not root."""

    def users(self) -> set[int]:
        return {os.geteuid()}

    def hand_over(self, path: Path, mode: int = 0o700) -> None:
        path.chmod(mode)

    def run_as(self) -> dict[str, Any]:
        return {}

    def readable_install(self, package: Path, install: Path, copies: Path) -> Path:
        return install


class _UserForRoot:
    """The user to whom root hands the server: the data's owner, if that is not root, else ``SYSTEM_USER``."""

    def __init__(self, data: Path) -> None:
        self._data = data

    def users(self) -> set[int]:
        return {os.geteuid(), self._ids()[0]}

    def hand_over(self, path: Path, mode: int = 0o700) -> None:
        path.chmod(mode)
        shutil.chown(path, *self._ids())
        for parent in path.parents:
            bits = parent.stat().st_mode
            if not bits & 0o001:
                log.warning("allowing other users to enter (not list) %s, for the server's own user", parent)
                parent.chmod(bits | 0o001)

    def run_as(self) -> dict[str, Any]:
        user, group = self._ids()
        return {"user": user, "group": group, "extra_groups": []}

    def readable_install(self, package: Path, install: Path, copies: Path) -> Path:
        copy = copies / package.name / install.name
        if not copy.is_dir():
            _copy_readable(install, copy)
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.is_dir():
                _copy_readable(libraries, copies / libraries.name)
        return copy

    def _ids(self) -> tuple[int, int]:
        """Return user and group."""
        import pwd

        if self._data.exists() and (owner := self._data.stat()).st_uid != 0:
            return owner.st_uid, owner.st_gid
        _ensure_system_user()
        entry = pwd.getpwnam(SYSTEM_USER)
        return entry.pw_uid, entry.pw_gid


def _ensure_system_user() -> None:
    import pwd

    try:
        pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        command = [
            "useradd",
            "--system",
            "--user-group",
            "--no-create-home",
            "--shell",
            "/usr/sbin/nologin",
            SYSTEM_USER,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        # 9: another process has just created the user
        if done.returncode not in (0, 9):
            raise DatabaseError(
                f"PostgreSQL does not run as root, and the user '{SYSTEM_USER}' cannot be created: {done.stderr.strip()}",
                hint="Run cbirdb as an ordinary user, or give --dsn.",
            ) from None


def _copy_readable(source: Path, target: Path) -> None:
    """Copy a folder so that everybody can read and enter it; the copy appears complete or not at all."""
    partial = target.with_name(target.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, partial, symlinks=True)
    for path in [partial, *partial.rglob("*")]:
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or os.access(path, os.X_OK) else 0o444))
    for parent in (target.parent, *target.parent.parents):
        if parent.name == "server":
            parent.chmod(0o755)
            break
        parent.chmod(0o755)
    partial.replace(target)
