"""Use the command line as a whole: help, environment variables, formats and streams of the output, exit codes."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import psycopg
import pytest

from cbirdb.cli.main import COMMANDS, cbirdb, run

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(sysconfig.get_path("scripts")) / "cbirdb"
SEARCH_ROW = ["rank", "image_id", "distance", "similarity", "labels", "dataset", "modality", "anatomic_region",
              "study_uid", "sop_uid", "source", "mode", "complete"]  # fmt: skip
METRIC_ROW = ["run", "encoder", "n", "micro_precision", "micro_std", "macro_precision", "macro_std", "queries",
              "classes", "mode", "ann_recall"]  # fmt: skip
INGEST_ROW = ["dataset", "added", "unchanged", "missing", "duplicate", "excluded", "failed"]


def all_commands() -> Iterator[tuple[str, click.Command]]:
    """Yield every command that does something, with the words that call it."""
    context = click.Context(cbirdb, info_name="cbirdb")
    for name in COMMANDS:
        command = cbirdb.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", found) for inner, found in command.commands.items())
        else:
            yield name, command


EVERY = dict(all_commands())


@pytest.fixture
def filled(cli: Callable, class_folder: Path) -> Callable:
    """Return the command line on a database where every listing has a row."""
    (class_folder / "normal" / "broken.png").write_bytes(b"no picture")
    assert cli("ingest", "folder", class_folder, "--split", "50/0/50").code == 4
    for command in ("encode -e tiny-image", "index build -e tiny-image", "evaluate -e tiny-image -k 10"):
        outcome = cli(*command.split())
        assert outcome.code == 0, outcome.err
    return cli


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    listed = re.findall(r"^  ([a-z-]+)  +\S", capsys.readouterr().out.partition("Commands:")[2], re.MULTILINE)
    assert listed == list(COMMANDS)


@pytest.mark.parametrize("words", [*COMMANDS, *EVERY])
def test_every_command_prints_its_usage_for_both_help_flags(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--help", "-h"):
        assert run([*words.split(), flag]) == 0
        out, err = capsys.readouterr()
        assert out.startswith(f"Usage: cbirdb {words}")
        assert err == ""


@pytest.mark.parametrize("words", EVERY)
def test_every_command_and_option_has_a_help_text(words: str) -> None:
    command = EVERY[words]
    assert (command.help or "").strip().splitlines()[0].endswith((".", "?"))
    unexplained = [p.opts for p in command.params if isinstance(p, click.Option) and not (p.help or "").strip()]
    assert unexplained == []


@pytest.mark.parametrize(
    ("variable", "value", "command", "words"),
    [
        ("CBIRDB_SEARCH_K", "0", "search --image-id 1 -e tiny-image", "0 is not in the range 1<=x<=10000"),
        ("CBIRDB_SEARCH_ENCODER", "tiny-imag", "search --image-id 1", "Did you mean 'tiny-image'?"),
        ("CBIRDB_ENCODE_DEVICE", "tpu", "encode -e tiny-image", "'tpu' is not one of"),
        ("CBIRDB_ENCODE_ENCODER", "tiny-imag", "encode", "Did you mean 'tiny-image'?"),
        ("CBIRDB_ENCODE_DATASET", "nope", "encode -e tiny-image", "no dataset named 'nope'"),
        ("CBIRDB_INGEST_SPLIT", "x", "ingest folder .", "'x' is not a split"),
        ("CBIRDB_METRICS_N", "x", "metrics", "'x' is not a list of numbers"),
        ("CBIRDB_METRICS_FORMAT", "xml", "metrics", "'xml' is not one of"),
        ("CBIRDB_INDEX_BUILD_EF_SEARCH", "x", "index build -e tiny-image", "'x' is not a valid integer"),
        ("CBIRDB_DB_STATUS_FORMAT", "xml", "db status", "'xml' is not one of"),
        ("CBIRDB_IMPORT_EMBEDDINGS_PRECISION", "x", "import-embeddings -e n f.h5", "'x' is not one of"),
        ("CBIRDB_DSN", "host=127.0.0.1 port=1", "db status", "No server answers at"),
    ],
)
def test_option_can_be_set_by_its_environment_variable(
    variable: str, value: str, command: str, words: str, cli: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    outcome = cli(*command.split())
    assert outcome.code != 0
    assert words in outcome.err


@pytest.mark.parametrize("words", EVERY)
def test_environment_variable_is_named_after_its_command_and_option(words: str) -> None:
    wrong = {}
    for option in EVERY[words].params:
        if not isinstance(option, click.Option):
            continue
        typed = {text.lstrip("-").replace("-", "_").upper() for text in option.opts}
        prefix = "CBIRDB_" + words.replace(" ", "_").replace("-", "_").upper() + "_"
        names = {prefix + (option.name or "").upper()}
        given = [option.envvar] if isinstance(option.envvar, str) else list(option.envvar or [])
        if not {prefix + name for name in typed} & (names | set(given)):
            wrong["/".join(option.opts)] = sorted(names | set(given))
    assert wrong == {}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["db", "--help"], ["search", "--help"], ["serach"]])
def test_help_imports_no_heavy_library(arguments: list[str]) -> None:
    heavy = ("torch", "transformers", "numpy", "psycopg", "sqlalchemy", "alembic", "rich", "PIL", "h5py")
    program = (
        "import sys; from cbirdb.cli.main import run; run(sys.argv[1:]);"
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60)
    assert done.stderr.splitlines()[-1] == "[]"


LISTINGS = [
    "datasets list", "encoders list", "encoders show tiny-image", "db status", "db doctor", "failures", "metrics",
    "metrics --by class", "metrics --by dataset", "metrics --by modality", "metrics --by anatomic-region",
    "index status -e tiny-image", "evaluate -e tiny-image -k 10", "encode -e tiny-image", "failures --all",
    "search --image-id 1 -e tiny-image -k 3", "index build -e tiny-image",
]  # fmt: skip


def test_every_listing_is_available_as_json_array_csv_and_table(filled: Callable) -> None:
    for command in LISTINGS:
        as_json = filled(*command.split(), "--format", "json")
        assert as_json.code == 0, f"{command}: {as_json.err}"
        assert isinstance(as_json.rows, list), command
        assert as_json.rows, command
        keys = list(as_json.rows[0])
        assert all(list(row) == keys for row in as_json.rows), command
        as_csv = filled(*command.split(), "--format", "csv")
        read = list(csv.DictReader(io.StringIO(as_csv.out)))
        assert list(read[0]) == keys, command
        assert len(read) == len(as_json.rows), command
        assert all(None not in row and None not in row.values() for row in read), command
        as_table = filled(*command.split())
        assert as_table.out.strip(), command
        assert "\x1b" not in as_table.out, command


def test_search_metrics_and_ingest_rows_have_the_promised_columns(filled: Callable, class_folder: Path) -> None:
    rows = filled("search", "--image-id", 1, "-e", "tiny-image", "-k", 3, "--format", "json").rows
    assert [list(row) for row in rows] == [SEARCH_ROW] * 3
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert isinstance(rows[0]["labels"], list)
    assert rows[0]["distance"] + rows[0]["similarity"] == pytest.approx(1)
    assert rows[0]["complete"] is True
    first = class_folder / "nodule" / "00.png"
    by_file = filled("search", "--image", first, "-e", "tiny-image", "-k", 1, "--format", "json").rows
    assert list(by_file[0]) == SEARCH_ROW
    assert by_file[0]["source"] == "nodule/00.png"
    assert [list(row) for row in filled("metrics", "-n", "1-3", "--format", "json").rows] == [METRIC_ROW] * 3
    for by in ("class", "dataset", "modality", "anatomic-region"):
        grouped = filled("metrics", "--by", by, "-n", "1", "--format", "json").rows
        assert sorted(grouped[0]) == sorted([*METRIC_ROW, by.replace("-", "_")])
    summary = filled("ingest", "folder", class_folder, "--format", "json").rows
    assert len(summary) == 1
    assert [key for key in summary[0] if key in INGEST_ROW] == INGEST_ROW


def test_search_accepts_a_sop_uid_and_keeps_to_a_list_of_images(
    filled: Callable, connection: psycopg.Connection
) -> None:
    connection.execute("UPDATE cbir.image SET sop_uid = '1.2.' || image_id")

    def found(*arguments: object) -> list[int]:
        rows = filled("search", "-e", "tiny-image", *arguments, "--format", "json").rows
        return [row["image_id"] for row in rows]

    assert found("--sop-uid", "1.2.3") == found("--image-id", 3) != []
    assert sorted(found("--image-id", 3, "--images", "5, 4,3,999")) == [4, 5]
    nothing = filled("search", "-e", "tiny-image", "--image-id", 3, "--images", 3)
    assert nothing.code == 0
    assert "No image passes these filters." in nothing.err
    connection.execute("UPDATE cbir.image SET sop_uid = '1.2.3' WHERE image_id = 4")
    ambiguous = filled("search", "-e", "tiny-image", "--sop-uid", "1.2.3")
    assert ambiguous.code == 1
    assert "2 images have this UID. Give image_id => one of 3, 4." in ambiguous.err


def test_listing_without_rows_is_an_empty_json_array_or_an_empty_csv(cli: Callable) -> None:
    assert cli("failures", "--format", "json").rows == []
    assert cli("failures", "--format", "csv").out == ""
    assert "no rows" in cli("failures").out


def test_remarks_go_to_stderr_and_rows_to_stdout(cli: Callable, class_folder: Path) -> None:
    (class_folder / "normal" / "broken.png").write_bytes(b"no picture")
    outcome = cli("ingest", "folder", class_folder, "--format", "json")
    assert outcome.code == 4
    assert outcome.rows[0]["failed"] == 1
    assert "could not be read" in outcome.err


def test_quiet_silences_remarks_and_keeps_rows_and_errors(cli: Callable, class_folder: Path) -> None:
    (class_folder / "normal" / "broken.png").write_bytes(b"no picture")
    outcome = cli("-q", "ingest", "folder", class_folder, "--format", "json")
    assert (outcome.code, outcome.err) == (4, "")
    assert outcome.rows[0]["failed"] == 1
    assert cli("-q", "encode", "-e", "tiny-imag").err.startswith("Error: ")


def test_only_verbose_adds_a_traceback_to_an_error() -> None:
    for flags, wanted in (([], False), (["-v"], True), (["-q"], False)):
        done = subprocess.run(
            [PROGRAM, *flags, "--dsn", "host=127.0.0.1 port=1", "db", "status"], capture_output=True, text=True
        )
        assert done.returncode == 3
        assert done.stdout == ""
        assert "Error: No server answers at" in done.stderr
        assert ("Traceback" in done.stderr) == wanted


@pytest.mark.parametrize("output_format", ["table", "json", "csv"])
def test_many_rows_into_a_closed_pipe_end_without_a_message(output_format: str, dsn: str) -> None:
    # The rows are more than a pipe holds, and its reader is gone before the first one.
    program = (
        "import sys; from cbirdb.cli import failures; from cbirdb.cli.main import main; import cbirdb.cli.output as o;"
        "real = o.write_rows;"
        "failures.write_rows = lambda rows, form: real([{'a': 'x' * 99, 'b': n} for n in range(2000)], form);"
        "main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", program, "--dsn", dsn, "failures", "--format", output_format]
    read_end, write_end = os.pipe()
    process = subprocess.Popen(command, stdout=write_end, stderr=subprocess.PIPE, text=True)
    os.close(write_end)
    os.close(read_end)
    _, err = process.communicate(timeout=60)
    assert err == ""
    assert process.returncode in (0, 141)


def test_few_rows_into_a_closed_pipe_end_without_a_message() -> None:
    read_end, write_end = os.pipe()
    process = subprocess.Popen([PROGRAM, "datasets", "list"], stdout=write_end, stderr=subprocess.PIPE, text=True)
    os.close(write_end)
    os.close(read_end)
    _, err = process.communicate(timeout=60)
    assert err == ""
    assert process.returncode in (0, 141)


def test_encoders_are_listed_on_an_ascii_terminal() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    for output_format in ("table", "json", "csv"):
        done = subprocess.run(
            [PROGRAM, "encoders", "list", "--format", output_format], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr


def test_interrupted_command_exits_with_130_and_says_that_work_is_kept(
    cli: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cbirdb.db import status

    def interrupted(_connection: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(status, "database_status", interrupted)
    outcome = cli("db", "status")
    assert (outcome.code, outcome.out) == (130, "")
    assert outcome.err.strip().startswith("Stopped. Finished work is kept")


def test_json_of_metrics_by_class_holds_no_nan(filled: Callable) -> None:
    json.loads(filled("metrics", "--by", "class", "--format", "json").out, parse_constant=pytest.fail)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_readme(name: str) -> None:
    assert re.search(rf"cbirdb (-\S+ )*{name}\b", (ROOT / "README.md").read_text())
