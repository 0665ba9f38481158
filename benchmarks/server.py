"""Which PostgreSQL server a benchmark measures: the same options for all of them."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from cbirdb.config import Settings


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """``--dsn`` and ``--home``; without either the embedded server that the command line uses, too."""
    parser.add_argument("--dsn", help="server; without it the embedded one")
    parser.add_argument(
        "--home", type=Path, default=os.environ.get("CBIRDB_HOME"), help="folder of the embedded server [CBIRDB_HOME]"
    )


def server_settings(arguments: argparse.Namespace) -> Settings:
    """Of the server that was named."""
    return Settings(dsn=arguments.dsn, home=arguments.home)
