"""Where cbirdb keeps its things and which server it talks to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

LIBPQ_TARGET_VARIABLES = ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE")
"""Any of these set means that the user has a server in mind."""


def default_home() -> Path:
    """``/var/lib/cbirdb`` for root, whose own folder no server may enter; the user's data folder otherwise."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/cbirdb")
    import platformdirs

    return Path(platformdirs.user_data_dir("cbirdb"))


@dataclass(frozen=True, slots=True)
class Settings:
    """What every command needs to know before it can do anything."""

    dsn: str | None = None
    home: Path | None = None

    @property
    def home_folder(self) -> Path:
        """The folder of the embedded server, absolute."""
        return (self.home or default_home()).expanduser().absolute()

    @property
    def weights_folder(self) -> Path:
        """Where ``encoders fetch`` puts models, and where they are looked for."""
        return self.home_folder / "weights"

    @property
    def pseudonym_key(self) -> Path:
        """Where the key of patients' pseudonyms is kept."""
        return self.home_folder / "pseudonym.key"

    @property
    def embedded(self) -> bool:
        """True when no server was named, so that the embedded one is used."""
        return self.dsn is None and not any(os.environ.get(name) for name in LIBPQ_TARGET_VARIABLES)
