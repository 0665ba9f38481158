"""Writes the draft of the next migration (``make migration``): the difference of ``tables.py`` to the database."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from alembic import command

from cbirdb.config import Settings
from cbirdb.db.connection import connect
from cbirdb.db.schema.migrate import alembic_config, head_revision, sqlalchemy_connection, upgrade_tables
from cbirdb.db.server.embedded import EmbeddedServer


def main(message: str) -> None:
    """Compare with a fresh database, so that nothing of the developer's own gets into the draft."""
    with tempfile.TemporaryDirectory() as home:
        try:
            with connect(Settings(home=Path(home))) as connection:
                upgrade_tables(connection)
                config = alembic_config()
                with sqlalchemy_connection(connection) as bound:
                    config.attributes["connection"] = bound
                    number = f"{int(head_revision()) + 1:04}"
                    command.revision(config, message=message, autogenerate=True, rev_id=number)
        finally:
            EmbeddedServer(Path(home)).stop()


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1]:
        sys.exit('Say what changes: make migration MESSAGE="..."')
    main(sys.argv[1])
