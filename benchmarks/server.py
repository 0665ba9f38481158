"""Chooses the PostgreSQL server of a benchmark: the same options for all of them."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from cbirdb.config import Settings


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--dsn`` and ``--home``. Without them benchmarks use the embedded server of the command line."""
    parser.add_argument("--dsn", help="server; without it the embedded one")
    parser.add_argument(
        "--home", type=Path, default=os.environ.get("CBIRDB_HOME"), help="folder of the embedded server [CBIRDB_HOME]"
    )


def server_settings(arguments: argparse.Namespace) -> Settings:
    """Return the settings of the chosen server."""
    return Settings(dsn=arguments.dsn, home=arguments.home)
