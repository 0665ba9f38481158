"""Bad input: one clear sentence on stderr, the right exit code, nothing on stdout, and a database left as it was."""

from __future__ import annotations

import shlex
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psycopg
import pytest
from PIL import Image
from psycopg import sql
from psycopg.conninfo import make_conninfo

from cbirdb.cli.main import run

USER, USAGE = 1, 2


@dataclass(frozen=True)
class World:
    """A database with one encoded and evaluated dataset and no index, and a folder of things that are wrong."""

    dsn: str
    folder: Path


@pytest.fixture(scope="module")
def world(server: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("bad")
    _write_files(folder)
    name = f"cbirdb_bad_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
        dsn = make_conninfo(server, dbname=name)
        for command in (
            f"ingest folder {folder}/good --name good",
            "encode -e tiny-image",
            "evaluate -e tiny-image -k 3",
        ):
            assert run(["-q", "--dsn", dsn, *shlex.split(command)]) == 0
        yield World(dsn, folder)
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _write_files(folder: Path) -> None:
    rng = np.random.default_rng(5)
    for split in ("train", "test"):
        for label in ("nodule", "normal"):
            for number in range(3):
                target = folder / "good" / split / label / f"{number}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (40, 40), dtype=np.uint8)).save(target)
    for name in ("empty", "hollow/inner", "no_weights"):
        (folder / name).mkdir(parents=True)
    (folder / "note.txt").write_text("not a picture")
    (folder / "zero.png").write_bytes(b"")
    Image.new("L", (40, 40), 128).save(folder / "grey.png")
    whole = (folder / "good" / "train" / "normal" / "0.png").read_bytes()
    (folder / "half.png").write_bytes(whole[: len(whole) // 2])


# What is wrong (the test's name), the command, the exit code, and words of the sentence.
BAD = [
    # files and folders
    ("folder that is not there", "ingest folder {}/nowhere", USER, "There is no folder"),
    ("folder that is a file", "ingest folder {}/note.txt", USER, "is a file, not a folder"),
    ("empty folder", "ingest folder {}/empty", USER, "There are no files"),
    ("folder of empty folders", "ingest folder {}/hollow", USER, "There are no files"),
    ("no CSV file", "ingest paper-csv {}/empty", USER, "There are no CSV files"),
    ("CSV that is not there", "ingest paper-csv {}/nowhere.csv", USER, "There is no file"),
    ("folder of images that is not there", "ingest paper-csv {}/note.txt --images {}/nowhere", USER, "--images"),
    ("HDF5 that is not there", "import-embeddings -e new {}/nowhere.h5", USER, "There is no file"),
    ("HDF5 that is none", "import-embeddings -e new {}/note.txt", USER, "not a readable HDF5 file"),
    ("demo in a folder below a file", "demo --out {}/note.txt/out", USER, "cannot be made"),
    ("weights that are not there", "encode -e resnet50 --weights {}/nowhere", USER, "does not exist"),
    ("weights folder without weights", "encode -e resnet50 --weights {}/no_weights", USER, "has no file"),
    # names
    ("unknown command", "serach --image-id 1", USAGE, "Did you mean 'search'?"),
    ("command like none", "zzzzzz", USAGE, "There is no command 'zzzzzz'"),
    ("unknown option of all", "--nonsense db status", USAGE, "No such option"),
    ("unknown sub-command", "db sttaus", USAGE, "sttaus"),
    ("unknown reader", "ingest foldr {}/good", USER, "Did you mean 'folder'?"),
    ("unknown encoder in encode", "encode -e tiny-imag", USER, "Did you mean 'tiny-image'?"),
    ("unknown encoder in search", "search --image-id 1 -e tiny-imag", USER, "Did you mean 'tiny-image'?"),
    ("unknown encoder in evaluate", "evaluate -e tiny-imag", USER, "Did you mean 'tiny-image'?"),
    ("unknown encoder in metrics", "metrics -e tiny-imag", USER, "Did you mean 'tiny-image'?"),
    ("unknown encoder in index", "index build -e tiny-imag", USER, "Did you mean 'tiny-image'?"),
    ("unknown encoder in demo", "demo --encoder tiny-imag --out {}/out", USER, "Did you mean 'tiny-image'?"),
    ("unknown encoder in show", "encoders show resnet5", USER, "Did you mean 'resnet50'?"),
    ("unknown encoder in drop", "encoders drop tiny-imag --yes", USER, "Did you mean 'tiny-image'?"),
    ("encoder like none", "search --image-id 1 -e zzzzzz", USER, "Known: biomedclip, clip-vit-l14, dinov2-vit-b14"),
    ("encoder not used yet", "search --image-id 1 -e resnet50", USER, "Run: cbirdb encode -e resnet50"),
    ("encoder that cannot be a name", "import-embeddings -e ??? {}/note.txt", USER, ""),
    ("unknown dataset in encode", "encode -e tiny-image -d god", USER, "Did you mean 'good'?"),
    ("unknown dataset in evaluate", "evaluate -e tiny-image -d god", USER, "Did you mean 'good'?"),
    ("unknown dataset in search", "search --image-id 1 -e tiny-image --dataset god", USER, "Did you mean 'good'?"),
    ("unknown run", "metrics --run 999", USER, "no finished evaluation run 999"),
    # queries
    ("query that is not there", "search --image {}/nowhere.png -e tiny-image", USER, "file not found"),
    ("query that is a folder", "search --image {}/empty -e tiny-image", USER, "not a regular file"),
    ("query that is no picture", "search --image {}/note.txt -e tiny-image", USER, "not an image"),
    ("query without bytes", "search --image {}/zero.png -e tiny-image", USER, "empty file"),
    ("query cut short", "search --image {}/half.png -e tiny-image", USER, "truncated"),
    ("query of one grey", "search --image {}/grey.png -e tiny-image", USER, "zero vector"),
    ("no query", "search -e tiny-image", USAGE, "Give one of --image"),
    ("two queries", "search --image-id 1 --image {}/grey.png -e tiny-image", USAGE, "Give one of --image"),
    ("image that is not there", "search --image-id 999999 -e tiny-image", USER, "There is no image 999999"),
    ("image beyond all numbers", f"search --image-id {10**20} -e tiny-image", USER, "There is no image"),
    ("UID that is not there", "search --sop-uid 1.2.3 -e tiny-image", USER, "no image with this SOP instance UID"),
    ("images that are words", "search --image-id 1 -e tiny-image --images x", USAGE, "not a list of image ids"),
    ("images with a gap", "search --image-id 1 -e tiny-image --images 1,,3", USAGE, "not a list of image ids"),
    ("images beyond all numbers", f"search --image-id 1 -e tiny-image --images {10**20}", USAGE, "not a list of image ids"),
    ("unknown modality in search", "search --image-id 1 -e tiny-image --modality XX", USER, "no modality named 'XX'"),
    ("unknown region in search", "search --image-id 1 -e tiny-image --anatomic-region x", USER, "no anatomic region named"),
    ("unknown label in search", "search --image-id 1 -e tiny-image --label nodul", USER, "no label named 'nodul'"),
    ("sheet that is no PNG", "search --image-id 1 -e tiny-image --sheet {}/a.jpg", USER, "does not end in .png"),
    ("sheet in no folder", "search --image-id 1 -e tiny-image --sheet {}/no/a.png", USER, "There is no folder"),
    ("approximate without index", "search --image-id 1 -e tiny-image --mode approximate", USER, "cbirdb index build"),
    # indexes
    ("status of no index", "index status -e tiny-image", USER, "has no vector index"),
    ("drop of no index", "index drop -e tiny-image", USER, "has no vector index"),
    ("evaluate without index", "evaluate -e tiny-image --mode approximate", USER, "cbirdb index build"),
    ("index of nothing", "index build -e resnet50", USER, "There are no embeddings"),
    ("index with a wrong m", "index build -e tiny-image --m 1", USER, "--m must lie between"),
    ("index with a wrong ef", "index build -e tiny-image --ef-search 0", USER, "--ef-search must lie between"),
    # numbers and words
    ("k of zero", "search --image-id 1 -e tiny-image -k 0", USER, "-k must"),
    ("k below zero", "search --image-id 1 -e tiny-image -k -3", USER, "-k must"),
    ("k beyond all numbers", "search --image-id 1 -e tiny-image -k 3000000000", USER, "-k must"),
    ("k that is no number", "search --image-id 1 -e tiny-image -k x", USAGE, "not a valid integer"),
    ("k of zero in evaluate", "evaluate -e tiny-image -k 0", USER, "-k must"),
    ("k too large in evaluate", "evaluate -e tiny-image -k 99999999", USER, "-k must"),
    ("seed beyond all numbers", f"evaluate -e tiny-image --seed {10**20}", USAGE, "--seed"),
    ("run beyond all numbers", f"metrics --run {10**20}", USER, "no finished evaluation run"),
    ("n that is no number", "metrics -n x", USER, "not a list of numbers"),
    ("n of nothing", "metrics -n ''", USER, "not a list of numbers"),
    ("n with a gap", "metrics -n 1,,3", USER, "not a list of numbers"),
    ("n backwards", "metrics -n 3-1", USER, "not a list of numbers"),
    ("n in superscript", "metrics -n ²", USER, "not a list of numbers"),
    ("n of zero", "metrics -n 0", USER, "P@0 is not known"),
    ("n above the run's k", "metrics -n 4", USER, "P@4 is not known"),
    ("split of two", "ingest folder {}/good --split 80/20", USER, "is not a split"),
    ("split of words", "ingest folder {}/good --split a/b/c", USER, "is not a split"),
    ("split in superscript", "ingest folder {}/good --split ²/48/50", USER, "is not a split"),
    ("split beyond 100", "ingest folder {}/good --split 80/10/20", USER, "not 100"),
    ("label pattern that does not parse", "ingest folder {}/good --label-pattern '('", USER, "not a regular expression"),
    ("label pattern without label", "ingest folder {}/good --label-pattern x", USER, "no group named 'label'"),
    ("dataset without a name", "ingest folder {}/good --name ''", USER, "name"),
    ("name taken by another folder", "ingest folder {}/good/train --name good", USER, "--moved"),
    ("format", "metrics --format xml", USAGE, "'xml' is not one of"),
    ("grouping", "metrics --by colour", USAGE, "'colour' is not one of"),
    ("date", "search --image-id 1 -e tiny-image --study-from 2020-13-45", USAGE, "does not match the format"),
    ("device", "encode -e tiny-image --device tpu", USAGE, "'tpu' is not one of"),
    ("other precision", "encode -e tiny-image --precision single", USER, "half precision"),
    ("batch of nothing", "encode -e tiny-image --batch-size 0", USAGE, "--batch-size"),
    ("encoder left out", "encode", USAGE, "Missing option '-e'"),
    ("number format", "encode -e tiny-image --dtype int8", USAGE, "'int8' is not one of"),
    ("no time for an image", "encode -e tiny-image --image-timeout 0", USAGE, "--image-timeout"),
    ("no pixels", "encode -e tiny-image --max-pixels 0", USAGE, "--max-pixels"),
    ("more pixels than Pillow decodes", "encode -e tiny-image --max-pixels 178956971", USAGE, "--max-pixels"),
    ("no workers", "encode -e tiny-image --workers 0", USAGE, "--workers"),
    ("shard after the last", "encode -e tiny-image --shard 2/2", USER, "'2/2' is not a shard"),
    ("shard of none", "encode -e tiny-image --shard 0/0", USER, "'0/0' is not a shard"),
    ("shard before the first", "encode -e tiny-image --shard -1/2", USER, "'-1/2' is not a shard"),
    ("shard that is a word", "encode -e tiny-image --shard x", USER, "'x' is not a shard"),
    # records of encoders
    ("unknown encoder in verify", "encoders verify tiny-imag", USER, "Did you mean 'tiny-image'?"),
    ("unknown encoder in fetch", "encoders fetch tiny-imag", USER, "Did you mean 'tiny-image'?"),
    ("nothing to fetch", "encoders fetch tiny-image --to {}/to", USER, "there is nothing to fetch"),
    ("verify without weights", "encoders verify resnet50 --weights {}/no_weights", USER, "has no file"),
    ("add what ships", "encoders add resnet50 --loader hf --weights a/b", USER, "ships with cbirdb"),
    ("add beside what ships", "encoders add Tiny_Image --loader hf --weights a/b", USER, "would share the table"),
    ("add without a name", "encoders add --loader hf --weights a/b", USAGE, "Missing argument 'NAME'"),
    ("add an empty name", "encoders add '' --loader hf --weights a/b", USER, "cannot name an encoder"),
    ("add a name without letters", "encoders add ??? --loader hf --weights a/b", USER, "cannot name an encoder"),
    ("add a long name", f"encoders add {'a' * 41} --loader hf --weights a/b", USER, "cannot name an encoder"),
    ("add a path for a name", "encoders add ../evil --loader hf --weights a/b", USER, "cannot name an encoder"),
    ("add without weights", "encoders add new --loader hf", USAGE, "Missing option '--weights'"),
    ("add from an empty name", "encoders add new --loader hf --weights ''", USER, "neither a folder"),
    ("add from one word", "encoders add new --loader hf --weights nowhere", USER, "neither a folder"),
    ("add from three words", "encoders add new --loader hf --weights a/b/c", USER, "neither a folder"),
    ("add from an owner alone", "encoders add new --loader hf --weights a/", USER, "neither a folder"),
    ("add from names with spaces", "encoders add new --loader hf --weights 'a b/c d'", USER, "neither a folder"),
    ("add from an address", "encoders add new --loader hf --weights https://a.b/c.bin", USER, "neither a folder"),
    ("add from nowhere", "encoders add new --loader hf --weights {}/nowhere", USER, "neither a folder"),
    ("add from nowhere near", "encoders add new --loader hf --weights ./nowhere", USER, "neither a folder"),
    ("add from nowhere at home", "encoders add new --loader hf --weights ~/nowhere", USER, "neither a folder"),
    ("add from a file", "encoders add new --loader hf --weights {}/note.txt", USER, "neither a folder"),
    ("add with an unknown loader", "encoders add new --loader keras --weights a/b", USAGE, "'keras' is not one of"),
    ("pooling of another loader", "encoders add new --loader timm --weights a/b --pooling cls", USER, "--pooling is for"),
    ("unknown pooling", "encoders add new --loader hf --weights a/b --pooling max", USAGE, "'max' is not one of"),
    ("QuickGELU elsewhere", "encoders add new --loader hf --weights a/b --quick-gelu", USER, "--quick-gelu is for"),
    ("unknown training", "encoders add new --loader hf --weights a/b --training hard", USAGE, "'hard' is not one of"),
    ("no dimension", "encoders add new --loader hf --weights a/b --dim 0", USAGE, "--dim"),
    ("more dimensions than an index takes", "encoders add new --loader hf --weights a/b --dim 4001", USAGE, "--dim"),
]  # fmt: skip


def row_counts(dsn: str) -> dict[str, int]:
    with psycopg.connect(dsn) as connection:
        tables = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'cbir'::regnamespace AND relkind = 'r'"
        ).fetchall()
        return {
            table: connection.execute(
                sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier("cbir", table))
            ).fetchone()[0]
            for (table,) in tables
        }


@pytest.mark.parametrize(("command", "code", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input_gets_one_sentence_and_changes_nothing(
    command: str, code: int, words: str, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    before = row_counts(world.dsn)
    capsys.readouterr()
    got = run(["--dsn", world.dsn, *shlex.split(command.replace("{}", str(world.folder)))])
    out, err = capsys.readouterr()
    assert got == code, err
    assert out == ""
    assert words in err
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line and not line.startswith(("Usage: ", "Try 'cbirdb"))]
    assert len(lines) == 1, err
    assert lines[0].startswith("Error: ")
    assert lines[0].endswith((".", "?")) or ": cbirdb " in lines[0], "neither a whole sentence nor a command to run"
    assert row_counts(world.dsn) == before


def test_a_range_of_n_without_end_is_refused_before_it_fills_the_memory() -> None:
    import resource
    import subprocess
    import sys

    program = "from cbirdb.cli.metrics import parse_cutoffs; parse_cutoffs('1-99999999999')"
    limit = 1 << 30
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )  # fmt: skip
    assert "MemoryError" not in done.stderr
    assert "InputError" in done.stderr


def test_encoding_an_empty_catalogue_says_to_ingest_and_registers_nothing(cli, connection) -> None:
    outcome = cli("encode", "-e", "tiny-image")
    assert (outcome.code, outcome.out) == (USER, "")
    assert "ingest" in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert connection.execute("SELECT count(*) FROM cbir.encoder").fetchone() == (0,)


def test_metrics_before_any_evaluation_say_to_evaluate(cli) -> None:
    outcome = cli("metrics")
    assert (outcome.code, outcome.out) == (USER, "")
    assert "cbirdb evaluate" in outcome.err
