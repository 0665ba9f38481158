"""Random kills of client, backend and postmaster, and whether anything differs from a run that nobody disturbed.

    make chaos SEED=1 ROUNDS=20

Each round does all steps, from an empty database to evaluations, with the real command on an embedded server whose fsync
is on. In each step the client, one of its backends or the postmaster is killed (SIGKILL) at a moment that the seed draws
from the step's undisturbed duration, and sometimes again while the same command is repeated. Then the command runs to
its end, and what the database holds is compared with what the undisturbed run held after that step (``state.py``).

No test: pytest does not collect it. It takes as long as one lets it, and where a kill hits depends on the machine, so
a fault that it finds becomes a test of its own, which holds the moment still.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from cbirdb.db.server.embedded import DATABASE, EmbeddedServer
from tests.chaos.inputs import write_inputs
from tests.chaos.state import State, differences, state

PROGRAM = Path(sys.executable).with_name("cbirdb")
VICTIMS = ("client", "backend", "postmaster")
AGAIN = 0.35
"""Share of the repeated commands that are disturbed as well."""
MOST_KILLS = 3
HANGS_AFTER_S = 240
DATABASE_LOST = 3
"""Exit code of a command that lost its server."""
COLUMNS = ("rounds", "kills", "kills that hit", "survived", "repeated", "resumed", "differences")


def steps(folder: Path) -> dict[str, tuple[str, ...]]:
    """Commands by name, in their order."""
    published = str(folder / "published")
    return {
        "db upgrade": ("db", "upgrade"),
        "ingest pictures": ("ingest", "folder", str(folder / "phantoms")),
        "ingest patients": ("ingest", "nih14", str(folder / "nih"), "--name", "nih"),
        "ingest a list": ("ingest", "paper-csv", f"{published}.csv"),
        "encode": ("encode", "-e", "tiny-image", "-d", "phantoms", "-d", "nih"),
        "import": ("import-embeddings", "-e", "published", f"{published}.h5"),
        "index build": ("index", "build", "-e", "published", "--method", "hnsw", "--no-audit"),
        "index rebuild": ("index", "build", "-e", "published", "--method", "ivfflat", "--no-audit"),
        "index audited": ("index", "build", "-e", "tiny-image", "--method", "hnsw"),
        "evaluate by scan": ("evaluate", "-e", "published", "-d", "few", "--mode", "exact"),
        "evaluate by matrix": ("evaluate", "-e", "published", "-d", "many", "--mode", "exact"),
    }


@dataclass
class Ended:
    """The end of a command."""

    code: int
    seconds: float
    hit: bool
    resumed: bool
    """It went on from what an earlier one had left."""
    complaint: str
    """Return the forbidden things that a command did, killed or not; empty: none."""
    err: str


class Machine:
    """An embedded server of its own, its clients, and the kills."""

    def __init__(self, home: Path) -> None:
        self.server = EmbeddedServer(home)
        self.server.start()
        with self._admin() as admin:
            # Soon enough to remove temporary tables of dead sessions while the round waits for it.
            admin.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
            admin.execute("SELECT pg_reload_conf()")

    def _admin(self) -> psycopg.Connection:
        return psycopg.connect(self.server.uri("postgres"), autocommit=True)

    def empty(self) -> None:
        """Remove the database, the roles, and what the clients remember on this machine."""
        self.server.start()
        with self._admin() as admin:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(DATABASE)))
            for (role,) in admin.execute(r"SELECT rolname FROM pg_roles WHERE rolname LIKE 'cbir\_%'").fetchall():
                admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
        for name in ("pseudonym.key", "allowed-roots.json"):
            (self.server.home / name).unlink(missing_ok=True)

    def state(self) -> State:
        with psycopg.connect(self.server.start(), autocommit=True) as connection:
            return state(connection)

    def run(self, arguments: tuple[str, ...], victim: str = "", after_s: float = 0.0) -> Ended:
        """Run a command, and kill the victim after so many seconds, where one is named."""
        shown = () if arguments[0] == "db" else ("--format", "json")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "CBIRDB_"))}
        started = time.monotonic()
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = subprocess.Popen(
                [str(PROGRAM), "--home", str(self.server.home), *arguments, *shown],
                stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=environment, start_new_session=True,
            )  # fmt: skip
            complaint, hit = "", False
            try:
                hit = bool(victim) and self._kill(process, victim, started + after_s)
                process.wait(HANGS_AFTER_S)
            except subprocess.TimeoutExpired:
                complaint = "it hangs"
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            seconds = time.monotonic() - started
            out.seek(0)
            err.seek(0)
            printed, said = out.read(), err.read()
        if not _is_empty(process.pid):
            complaint = "its workers live on"
            os.killpg(process.pid, signal.SIGKILL)
        if "Traceback" in said and not (hit and victim == "client"):
            complaint = "it shows a traceback"
        rows = json.loads(printed) if printed.strip() else []
        resumed = any(row.get(key) for row in rows for key in ("unchanged", "already_there", "resumed"))
        return Ended(process.returncode, seconds, hit, resumed, complaint, said)

    def _kill(self, process: subprocess.Popen[bytes], victim: str, moment: float) -> bool:
        """Kill at that moment; a backend as soon as there is one. False: the command had ended before."""
        while process.poll() is None:
            time.sleep(max(0.005, min(0.02, moment - time.monotonic())))
            if time.monotonic() < moment:
                continue
            pid = {"client": lambda: process.pid, "backend": self._backend, "postmaster": self._postmaster}[victim]()
            if pid is not None and process.poll() is None:
                os.kill(pid, signal.SIGKILL)
                return True
        return False

    def _postmaster(self) -> int | None:
        try:
            pid = int((self.server.data / "postmaster.pid").read_text().split()[0])
        except (FileNotFoundError, IndexError):  # between the kill before and the next start
            return None
        return pid if _stat(pid)[:1] == ["postgres"] else None

    def _backend(self) -> int | None:
        """One of the client's sessions, or of their parallel workers; of this server for certain."""
        theirs = "SELECT pid FROM pg_stat_activity WHERE application_name = 'cbirdb' ORDER BY random() LIMIT 1"
        try:
            with self._admin() as admin:
                row = admin.execute(theirs).fetchone()
        except psycopg.OperationalError:  # still recovering from the kill before: there is none
            return None
        return row[0] if row and _stat(row[0])[2:3] == [str(self._postmaster())] else None


def _stat(pid: int) -> list[str]:
    """Name, state and parent of a process; empty: there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [text.partition("(")[2].rpartition(")")[0], *text.rpartition(")")[2].split()[:2]]


def _is_empty(group: int) -> bool:
    """Return True if a process group is gone, given time to notice that its first process is."""
    for _ in range(200):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


class Chaos:
    """The reference, then rounds."""

    def __init__(self, machine: Machine, commands: dict[str, tuple[str, ...]], seed: int) -> None:
        self.machine, self.commands, self.seed = machine, commands, seed
        self.expected: dict[str, State] = {}
        self.undisturbed: dict[str, Ended] = {}
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.found: list[str] = []

    def reference(self) -> None:
        """Do all steps twice undisturbed: for the figures, and to know that they are the same each time."""
        for again in (False, True):
            self.machine.empty()
            for name, arguments in self.commands.items():
                ended = self.machine.run(arguments)
                if ended.complaint or ended.code not in (0, 4):
                    raise SystemExit(f"{name} fails undisturbed ({ended.code}): {ended.complaint} {ended.err}")
                now = self.machine.state()
                if again and (different := differences(self.expected[name], now)):
                    raise SystemExit(f"{name} differs between two undisturbed runs: {different}")
                if again:
                    ended.seconds = min(ended.seconds, self.undisturbed[name].seconds)
                self.expected[name], self.undisturbed[name] = now, ended
                tell(f"undisturbed: {name}, {ended.seconds:.1f} s, exit code {ended.code}")

    def round(self, number: int) -> None:
        """Do all steps with kills; a step that differs ends the round, as the next ones would differ, too."""
        self.machine.empty()
        for place, name in enumerate(self.commands):
            victim = VICTIMS[(number + place + self.seed) % len(VICTIMS)]
            self.counts[name, victim, "rounds"] += 1
            problems = self._step(name, victim, random.Random(f"{self.seed} {number} {name}"))
            if problems:
                self.counts[name, victim, "differences"] += 1
                self.found += [f"round {number}, {name}, {victim} killed: {problem}" for problem in problems]
                tell(*self.found[-len(problems) :])
                return

    def _step(self, name: str, victim: str, rng: random.Random) -> list[str]:
        wanted, story = self.undisturbed[name], []
        for turn in range(MOST_KILLS + 2):
            disturb = turn == 0 or (turn < MOST_KILLS and rng.random() < AGAIN)
            moment = rng.uniform(0, wanted.seconds)
            ended = self.machine.run(self.commands[name], victim if disturb else "", moment)
            figures = {
                "kills": disturb, "kills that hit": ended.hit, "survived": ended.hit and ended.code == wanted.code,
                "repeated": turn > 0, "resumed": turn > 0 and ended.resumed,
            }  # fmt: skip
            for column, value in figures.items():
                self.counts[name, victim, column] += value
            story.append(f"{f'{moment:.2f} s, ' if disturb else ''}{ended.code}{' resumed' * figures['resumed']}")
            may_end = (wanted.code, -signal.SIGKILL if victim == "client" else DATABASE_LOST)
            if ended.complaint or ended.code not in may_end[: 1 + ended.hit]:
                return [f"{ended.complaint or f'exit code {ended.code}'} ({'; '.join(story)}): {ended.err[-2000:]}"]
            if ended.code == wanted.code:
                break
        tell(f"  {name}, {victim}: {'; '.join(story)}")
        return differences(self.expected[name], self.machine.state())

    def table(self) -> None:
        """Print rows of Markdown, to be pasted into ``docs/chaos.md``."""
        print(f"\n| step | killed | {' | '.join(COLUMNS)} |\n|---|---|{'---|' * len(COLUMNS)}")
        for name in self.commands:
            for victim in VICTIMS:
                figures = [str(self.counts[name, victim, column]) for column in COLUMNS]
                print(f"| {name} | {victim} | {' | '.join(figures)} |")
        total = [str(sum(n for key, n in self.counts.items() if key[2] == column)) for column in COLUMNS]
        print(f"| all | all | {' | '.join(total)} |", flush=True)


def tell(*lines: str) -> None:
    for line in lines:
        print(line, flush=True)


def main() -> int:
    """Print the table; 1 when anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=600, help="Begin no further round after so many.")
    options = parser.parse_args()
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="cbirdb-chaos-"))
    machine = Machine(folder / "home")
    try:
        write_inputs(folder)
        chaos = Chaos(machine, steps(folder), options.seed)
        chaos.reference()
        for number in range(1, options.rounds + 1):
            if time.monotonic() - began > options.minutes * 60:
                tell(f"The time is up: {number - 1} rounds.")
                break
            tell(f"round {number}, {time.monotonic() - began:.0f} s")
            chaos.round(number)
        chaos.table()
        tell(*chaos.found, f"{time.monotonic() - began:.0f} s; the server's log is {machine.server.log_file}.")
    finally:
        machine.server.stop()
    if chaos.found:
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
