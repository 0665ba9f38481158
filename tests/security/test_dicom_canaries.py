"""Test that no name leaves DICOM files: canaries planted everywhere are in no table, log, message, picture or process.

One server logs every statement with its parameters, so that a name which is only sent to it is seen as well.
"""

from __future__ import annotations

import os
import pty
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from cbirdb.cli.main import run
from cbirdb.datasets.dicom.read_file import Task
from cbirdb.datasets.dicom.reader import _outcome
from cbirdb.db.schema.migrate import upgrade
from cbirdb.db.server.embedded import EmbeddedServer
from cbirdb.parallel.worker_pool import WorkerDiedError, WorkerTimeoutError
from cbirdb.records import Failure
from tests.support import dicom_canaries as canaries
from tests.support.dicom_archive import ROOT
from tests.support.dicom_canaries import NUMBER, WORD
from tests.support.dicom_headers import settings

E = ("-e", "tiny-image")
RUN = "from cbirdb.cli.main import main; main()"
FORMATS = (("--format", "json"), ("--format", "csv"), ("--format", "table"))


@dataclass
class Machine:
    """A machine with its archive and its server, and all that its commands wrote."""

    home: Path
    base: Path
    server: EmbeddedServer
    written: dict[str, bytes] = field(default_factory=dict, repr=False)
    """The output of each command, by its words."""
    codes: dict[str, int] = field(default_factory=dict, repr=False)
    processes: set[bytes] = field(default_factory=set, repr=False)
    """Command lines of processes that commands started."""

    @property
    def root(self) -> Path:
        return self.base / f"{WORD}-archive"

    def __call__(self, *words: object) -> int:
        """Run a command in this process; keep what it and its processes write."""
        arguments = [str(word) for word in words]
        name = f"{len(self.codes)} {' '.join(arguments)}"
        with tempfile.TemporaryFile() as file:
            with _streams_into(file.fileno()):
                self.codes[name] = run(arguments)
            file.seek(0)
            self.written[name] = file.read()
        return self.codes[name]

    @property
    def last(self) -> bytes:
        """Return the output of the last command."""
        return list(self.written.values())[-1]

    def in_a_terminal(self, *words: object) -> int:
        """Run a command as a process on a terminal, where it shows progress."""
        arguments = [str(word) for word in words]
        name = f"{len(self.codes)} {' '.join(arguments)}"
        ours, theirs = pty.openpty()
        process = subprocess.Popen([sys.executable, "-c", RUN, *arguments], stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        parts = []
        while True:
            self._look_at_processes(process.pid)
            try:
                part = os.read(ours, 1 << 16)
            except OSError:  # the terminal's other end is closed
                break
            if not part:
                break
            parts.append(part)
        os.close(ours)
        self.codes[name] = process.wait()
        self.written[name] = b"".join(parts)
        return self.codes[name]

    def _look_at_processes(self, of_the_user: int) -> None:
        """Note the command lines of all processes but the one that the user has called."""
        for folder in Path("/proc").glob("[0-9]*"):
            if int(folder.name) not in (of_the_user, os.getpid()):
                try:
                    self.processes.add((folder / "cmdline").read_bytes())
                except OSError:
                    continue  # it has ended

    def dump(self) -> bytes:
        """The whole database as pg_dump writes it, and what the server knows of statements."""
        program = self.server.psql().with_name("pg_dump")
        done = subprocess.run([str(program), "-d", self.server.uri()], capture_output=True, check=True)
        with psycopg.connect(self.server.uri()) as connection:
            live = connection.execute(
                "SELECT query, application_name FROM pg_stat_activity UNION ALL"
                " SELECT format('%s %s', most_common_vals, histogram_bounds), attname FROM pg_stats WHERE schemaname = 'cbir'"
            ).fetchall()
        return done.stdout + repr(live).encode()


@contextmanager
def _streams_into(descriptor: int) -> Iterator[None]:
    """Lead the output of this process and of those that it starts into a file."""
    before = sys.stdout, sys.stderr
    kept = os.dup(1), os.dup(2)
    try:
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        with os.fdopen(os.dup(1), "w") as out, os.fdopen(os.dup(2), "w") as err:
            sys.stdout, sys.stderr = out, err
            yield
    finally:
        sys.stdout, sys.stderr = before
        for target, old in zip((1, 2), kept, strict=True):
            os.dup2(old, target)
            os.close(old)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """Run every command over an archive of canaries."""
    # Not below pytest's own folder: as root the server runs as another user, whom pytest locks out of it.
    base = Path(tempfile.mkdtemp(prefix="cbirdb-archive-"))
    home = Path(tempfile.mkdtemp(prefix="cbirdb-home-"))
    server = EmbeddedServer(home)
    server.start()
    with psycopg.connect(server.uri("postgres"), autocommit=True) as admin:
        for name, value in {"log_min_duration_statement": "0", "log_parameter_max_length_on_error": "-1",
                            "log_min_messages": "debug1", "fsync": "off"}.items():  # fmt: skip
            admin.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
        admin.execute("SELECT pg_reload_conf()")
    with psycopg.connect(server.uri(), autocommit=True) as connection:
        upgrade(connection)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CBIRDB_HOME", str(home))
        patch.delenv("CBIRDB_DSN", raising=False)
        made = Machine(home, base, server)
        _run_all(made)
        yield made
    server.stop()
    shutil.rmtree(home)
    shutil.rmtree(base)


def _run_all(machine: Machine) -> None:
    """Write the archive and run the commands; those that take names as options get none."""
    base, root = machine.base, machine.root
    (base / "outside").write_bytes(b"not of the archive")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom does not like some canaries
        canaries.archive(root, base / "outside")
        disc = canaries.media(base / f"{WORD}-disc")
        query = canaries.write(base / "query" / f"{WORD} query.dcm", 70)
        bad_query = base / "query" / f"{WORD} bad query.dcm"
        bad_query.write_bytes(query.read_bytes()[:-700])
        single = canaries.write(base / f"{WORD}-single" / f"{WORD}.dcm", 80, PatientID=f"{WORD}-ID7")
    labels = base / f"{WORD}-labels.csv"
    rows = [f"{ROOT}{seed}.1,CT/chest/{'nodule' if seed % 2 else 'normal'}" for seed in (10, 11, 12, 13, 20, 30, 40)]
    labels.write_text("\n".join(["sop_uid,label", *rows, f"1.2.{NUMBER},CT/chest/nodule\n"]))
    wrong = [base / f"{WORD}-wrong{number}.csv" for number in range(3)]
    wrong[0].write_text(f"sop_uid,label\n1.2.{NUMBER},\n")
    wrong[1].write_text(f"1.2.{NUMBER},{WORD}\n1.2.{NUMBER},{WORD}\n")
    wrong[2].write_text(f"sop_uid,label,{WORD}\n1.2.{NUMBER},nodule,{WORD}\n")

    assert machine("ingest", "dicom", root, "--dry-run", *FORMATS[0]) == 4
    assert machine("ingest", "dicom", root, "--labels", labels) == 4
    for options in FORMATS:
        assert machine("ingest", "dicom", root, *options) == 4, "again"
    for file in (*wrong, base / f"{WORD}-missing.csv"):
        assert machine("-v", "ingest", "dicom", root, "--labels", file, "--name", "wrong labels") == 1
    assert machine("ingest", "dicom", base / f"{WORD}-nowhere") == 1
    assert machine("ingest", "chexpert", disc.parent) == 1
    assert machine("ingest", "dicom", disc, "--name", "disc") == 4
    assert machine("ingest", "dicom", root / f"{WORD}.zip", "--name", "zip") == 4
    assert machine("ingest", "dicom", single, "--name", "single") == 0
    strict = ("--uids", "hash", "--dates", "shift", "--paths", "opaque")
    assert machine("ingest", "dicom", root, "--name", "strict", *strict) == 4
    assert machine("ingest", "dicom", single.parent, "--name", "dropped", "--dates", "drop", "--uids", "hash") == 0
    assert machine.in_a_terminal("-vv", "ingest", "dicom", root, "--name", "verbose") == 4

    machine("encode", *E, "--dataset", "disc", *FORMATS[0])
    assert machine.in_a_terminal("-vv", "encode", *E) == 4
    assert machine.in_a_terminal("encode", *E, "--accept-damaged") == 4
    machine("encode", *E, "--on-conflict", "replace")
    _search(machine, query, bad_query)
    for command in (("db", "status"), ("db", "doctor"), ("failures",), ("failures", "--all"), ("datasets", "list")):
        for options in FORMATS:
            machine(*command, *options)
    assert machine("ingest", "dicom", root, "--labels", labels) == 4
    with psycopg.connect(machine.server.uri()) as connection:  # DICOM files have no splits
        connection.execute("UPDATE cbir.image SET split = (ARRAY['train', 'val', 'test'])[1 + image_id % 3]")
    for command in (("evaluate", *E, "--dataset", "dicom"), ("metrics",), ("metrics", "--by", "class"), ("metrics", *FORMATS[0]),
                    ("leakage", *E), ("evaluate", *E, "--dataset", "dicom", "--query-split", "val"),
                    ("classify", *E), ("index", "build", *E)):  # fmt: skip
        assert machine(*command) == 0, machine.last
    machine("erase", "--patient", "nobody of this name", "--yes")
    with psycopg.connect(machine.server.uri()) as connection:
        # A patient who is no part of what the tests look at: pseudonyms are random, and so is their order.
        (pseudonym,) = connection.execute(
            "SELECT p.pseudonym FROM cbir.image AS i INNER JOIN cbir.patient AS p USING (patient_id)"
            " WHERE i.sop_uid = %s LIMIT 1",
            [f"{ROOT}20.1"],
        ).fetchone() or ("",)
    assert machine("erase", "--patient", pseudonym, "--yes", "--certificate", base / "certificate.json") == 0
    assert machine("erase", "--list", *FORMATS[0]) == 0
    machine("ingest", "dicom", root)
    machine("datasets", "drop", "strict", "--yes")


def _search(machine: Machine, query: Path, bad_query: Path) -> None:
    with psycopg.connect(machine.server.uri()) as connection:
        (image,) = connection.execute("SELECT min(image_id) FROM cbir.embedding_tiny_image").fetchone() or (0,)
    found = (("--image-id", image), ("--sop-uid", f"{ROOT}80.1"), ("--study-uid", f"{ROOT}60.3"), ("--image", query))
    for number, words in enumerate(found):
        sheet = machine.base / f"sheet{number}.png"
        options = ("--hide-burned-in", *FORMATS[1]) if number == 1 else FORMATS[0]
        assert machine("search", *E, *words, "--same-patient", "-k", 50, "--sheet", sheet, *options) == 0, machine.last
    for words in (("--image", bad_query), ("--image-id", 99999), ("--sop-uid", "1.2.3.4")):
        assert machine("-v", "search", *E, *words) == 1


def test_database_holds_no_canary(machine: Machine) -> None:
    dump = machine.dump()
    assert b"dicom-" in dump
    assert canaries.found("dump", dump) == []


def test_server_is_told_no_canary(machine: Machine) -> None:
    log = machine.server.log_file.read_bytes()
    assert b"similar_images" in log
    assert canaries.found("log", log) == []


def test_commands_write_no_canary(machine: Machine) -> None:
    told = {
        command: canaries.found("", text)
        for command, text in machine.written.items()
        if "--image " not in command  # the user's own argument may be repeated
    }
    assert {command: found for command, found in told.items() if found} == {}


def test_search_by_a_file_names_no_more_than_the_file(machine: Machine) -> None:
    for command, text in machine.written.items():
        if "--image " in command:
            given = re.escape(str(machine.base / "query").encode()) + rb"/FINCHX (bad )?query[.]dcm"
            assert canaries.found(command, re.sub(given, b"", text)) == []


def test_commands_write_no_path_of_the_archive(machine: Machine) -> None:
    paths = [str(path).encode() for path in (machine.root, machine.base / "outside")]
    assert [name for name, text in machine.written.items() if any(path in text for path in paths)] == []


def test_commands_write_no_traceback_of_an_unexpected_error(machine: Machine) -> None:
    """With -v the causes of known errors are shown."""
    told = [name for name, text in machine.written.items() if b"Traceback" in text and " -v" not in name]
    assert told == []


def test_processes_show_no_canary(machine: Machine) -> None:
    assert any(b"multiprocessing" in line for line in machine.processes)
    # A command's own arguments are its user's; another test may be running one.
    others = [line for line in machine.processes if b"cbirdb.cli.main" not in line]
    assert [line for line in others if canaries.found("", line)] == []


@pytest.mark.parametrize("name", ["sheet0.png", "sheet1.png", "sheet2.png", "sheet3.png", "certificate.json"])
def test_files_that_commands_write_hold_no_canary(machine: Machine, name: str) -> None:
    assert canaries.found(name, (machine.base / name).read_bytes()) == []


def test_temporary_folder_holds_no_canary(machine: Machine) -> None:
    left = [path for path in Path(tempfile.gettempdir()).iterdir() if WORD.lower() in path.name.lower()]
    assert left == []


def test_home_holds_canaries_in_files_of_the_owner_alone(machine: Machine) -> None:
    inside = [path for path in machine.home.iterdir() if path.is_file() and WORD.encode() in path.read_bytes()]
    assert {path.name for path in inside} - {"postgresql.log"} == {"path-map.sqlite", "allowed-roots.json"}
    for path in (*inside, machine.home / "pseudonym.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_birth_dates_times_and_high_ages_are_not_stored(machine: Machine) -> None:
    with psycopg.connect(machine.server.uri()) as connection:
        ages = connection.execute("SELECT DISTINCT age_years FROM cbir.study").fetchall()
        days = connection.execute(
            "SELECT d.name, array_agg(DISTINCT s.study_date::text) FROM cbir.image AS i JOIN cbir.dataset AS d"
            " USING (dataset_id) JOIN cbir.study AS s USING (study_id) GROUP BY 1"
        ).fetchall()
    assert ages == [(90,)]
    assert dict(days)["single"] == ["2020-01-02"]
    assert dict(days)["dropped"] == [None]


def test_every_way_to_fail_was_met(machine: Machine) -> None:
    with psycopg.connect(machine.server.uri()) as connection:
        reasons = {reason for (reason,) in connection.execute("SELECT DISTINCT reason FROM cbir.failure").fetchall()}
    assert reasons >= {
        "wrong UID", "damaged header", "too large", "too many frames", "truncated", "unsupported", "damaged zip",
        "outside of its folder",
    }  # fmt: skip


@pytest.mark.parametrize("error", [WorkerDiedError(-9), WorkerTimeoutError(60)])
def test_failure_of_a_file_that_ended_its_process_has_an_opaque_name(tmp_path: Path, error: Exception) -> None:
    future: Future[Any] = Future()
    future.set_exception(error)
    for member in (None, 3):
        outcome = _outcome(Task(f"{WORD}/{WORD}.dcm".encode(), member), future, settings(tmp_path))
        assert isinstance(outcome, list)
        (failure,) = outcome
        assert isinstance(failure, Failure)
        assert canaries.found("", f"{failure.source} {failure.reason} {failure.detail}".encode()) == []
        assert failure.source.startswith("dicom-")
