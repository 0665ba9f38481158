"""Locates cbirdb's own files and the server that it talks to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

LIBPQ_TARGET_VARIABLES = ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE")
"""Variables of libpq that name a server. If any is set, the embedded server is not used."""


def default_home() -> Path:
    """Return ``/var/lib/cbirdb`` for root, whose home folder no server may enter, else the user's data folder."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/cbirdb")
    import platformdirs

    return Path(platformdirs.user_data_dir("cbirdb"))


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings that every command needs first."""

    dsn: str | None = None
    home: Path | None = None

    @property
    def home_folder(self) -> Path:
        """Return the absolute path of the embedded server's folder."""
        return (self.home or default_home()).expanduser().absolute()

    @property
    def weights_folder(self) -> Path:
        """Return the folder in which ``encoders fetch`` puts models and ``encode`` looks for them."""
        return self.home_folder / "weights"

    @property
    def pseudonym_key(self) -> Path:
        """Return the file that holds the key of patients' pseudonyms."""
        return self.home_folder / "pseudonym.key"

    @property
    def path_map(self) -> Path:
        """Return the file that says where the files of opaque names lie."""
        return self.home_folder / "path-map.sqlite"

    @property
    def embedded(self) -> bool:
        """Return True if no server was named, so that the embedded one is used."""
        return self.dsn is None and not any(os.environ.get(name) for name in LIBPQ_TARGET_VARIABLES)
