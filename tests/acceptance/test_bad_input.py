"""Answer bad input with one sentence on stderr and the right exit code; change nothing in the database."""

from __future__ import annotations

import shlex
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import psycopg
import pytest
from PIL import Image
from psycopg import sql
from psycopg.conninfo import make_conninfo

from cbirdb.cli.main import run

USER, USAGE, DATABASE = 1, 2, 3


@dataclass(frozen=True)
class World:
    """A database with one encoded and evaluated dataset and no index, and a folder of bad files."""

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
    for name, stored in (("vectors.h5", {"train/nodule/0.png": np.full(4, 0.5, np.float32)}), ("nothing.h5", {})):
        with h5py.File(folder / name, "w") as file:
            for source, vector in stored.items():
                file[source] = vector
    (folder / "zero.png").write_bytes(b"")
    Image.new("L", (40, 40), 128).save(folder / "grey.png")
    whole = (folder / "good" / "train" / "normal" / "0.png").read_bytes()
    (folder / "half.png").write_bytes(whole[: len(whole) // 2])


# What is wrong (the test's name), the command, the exit code, and words of the sentence.
BAD = [
    # files and folders
    ("missing folder", "ingest folder {}/nowhere", USER, "There is no folder"),
    ("folder that is a file", "ingest folder {}/note.txt", USER, "is a file, not a folder"),
    ("empty folder", "ingest folder {}/empty", USER, "There are no files"),
    ("folder that holds only empty folders", "ingest folder {}/hollow", USER, "There are no files"),
    ("no CSV file", "ingest paper-csv {}/empty", USER, "There are no CSV files"),
    ("missing CSV file", "ingest paper-csv {}/nowhere.csv", USER, "There is no file"),
    ("missing folder of images", "ingest paper-csv {}/note.txt --images {}/nowhere", USER, "--images"),
    ("missing HDF5 file", "import-embeddings -e new {}/nowhere.h5", USER, "There is no file"),
    ("HDF5 file in another format", "import-embeddings -e new {}/note.txt", USER, "not a readable HDF5 file"),
    ("demo in a folder below a file", "demo --out {}/note.txt/out", USER, "cannot be created"),
    ("missing folder of weights", "encode -e resnet50 --weights {}/nowhere", USER, "does not exist"),
    ("weights folder without weights", "encode -e resnet50 --weights {}/no_weights", USER, "has no file"),
    # names
    ("unknown command", "serach --image-id 1", USAGE, "Did you mean 'search'?"),
    ("unknown command without a similar one", "zzzzzz", USAGE, "There is no command 'zzzzzz'"),
    ("unknown global option", "--nonsense db status", USAGE, "No such option"),
    ("unknown sub-command", "db sttaus", USAGE, "sttaus"),
    ("unknown reader", "ingest foldr {}/good", USER, "Did you mean 'folder'?"),
    ("unknown encoder in encode", "encode -e tiny-imag", USER, "Did you mean 'tiny-image'?"),
    ("unknown encoder in search", "search --image-id 1 -e tiny-imag", USER, "Did you mean 'tiny-image'?"),
    ("unknown encoder in evaluate", "evaluate -e tiny-imag", USER, "Did you mean 'tiny-image'?"),
    ("unknown encoder in metrics", "metrics -e tiny-imag", USER, "Did you mean 'tiny-image'?"),
    ("unknown encoder in index", "index build -e tiny-imag", USER, "Did you mean 'tiny-image'?"),
    ("unknown encoder in demo", "demo --encoder tiny-imag --out {}/out", USER, "Did you mean 'tiny-image'?"),
    ("unknown encoder in show", "encoders show resnet5", USER, "Did you mean 'resnet50'?"),
    ("unknown encoder in drop", "encoders drop tiny-imag", USER, "Did you mean 'tiny-image'?"),
    ("unknown encoder without a similar one", "search --image-id 1 -e zzzzzz", USER, "Known: biomedclip, clip-vit-l14, dinov2-vit-b14"),
    ("encoder not used yet", "search --image-id 1 -e resnet50", USER, "Run: cbirdb encode -e resnet50"),
    ("impossible encoder name in import", "import-embeddings -e ??? {}/note.txt", USER, ""),
    ("unknown dataset in encode", "encode -e tiny-image -d god", USER, "Did you mean 'good'?"),
    ("unknown dataset in evaluate", "evaluate -e tiny-image -d god", USER, "Did you mean 'good'?"),
    ("unknown dataset in search", "search --image-id 1 -e tiny-image --dataset god", USER, "Did you mean 'good'?"),
    ("unknown run", "metrics --run 999", USER, "no finished evaluation run 999"),
    # queries
    ("missing query file", "search --image {}/nowhere.png -e tiny-image", USER, "file not found"),
    ("query that is a folder", "search --image {}/empty -e tiny-image", USER, "not a regular file"),
    ("query that is no picture", "search --image {}/note.txt -e tiny-image", USER, "not an image"),
    ("empty query file", "search --image {}/zero.png -e tiny-image", USER, "empty file"),
    ("truncated query", "search --image {}/half.png -e tiny-image", USER, "truncated"),
    ("query of a single grey value", "search --image {}/grey.png -e tiny-image", USER, "zero vector"),
    ("no query", "search -e tiny-image", USAGE, "Give one of --image"),
    ("two queries", "search --image-id 1 --image {}/grey.png -e tiny-image", USAGE, "Give one of --image"),
    ("unknown image id", "search --image-id 999999 -e tiny-image", USER, "There is no image 999999"),
    ("image id too large for a bigint", f"search --image-id {10**20} -e tiny-image", USAGE, "is not in the range"),
    ("unknown SOP instance UID", "search --sop-uid 1.2.3 -e tiny-image", USER, "o image has this UID"),
    ("images as words", "search --image-id 1 -e tiny-image --images x", USAGE, "not a list of image ids"),
    ("images with an empty item", "search --image-id 1 -e tiny-image --images 1,,3", USAGE, "not a list of image ids"),
    ("image ids too large for a bigint", f"search --image-id 1 -e tiny-image --images {10**20}", USAGE, "not a list of image ids"),
    ("unknown modality in search", "search --image-id 1 -e tiny-image --modality XX", USER, "no modality named 'XX'"),
    ("unknown region in search", "search --image-id 1 -e tiny-image --anatomic-region x", USER, "no anatomic region named"),
    ("unknown label in search", "search --image-id 1 -e tiny-image --label nodul", USER, "no label named 'nodul'"),
    ("sheet that is no PNG", "search --image-id 1 -e tiny-image --sheet {}/a.jpg", USAGE, "does not end in .png"),
    ("sheet in no folder", "search --image-id 1 -e tiny-image --sheet {}/no/a.png", USER, "There is no folder"),
    ("approximate without index", "search --image-id 1 -e tiny-image --mode approximate", USER, "cbirdb index build"),
    # indexes
    ("status without an index", "index status -e tiny-image", USER, "has no vector index"),
    ("drop without an index", "index drop -e tiny-image", USER, "has no vector index"),
    ("evaluate without index", "evaluate -e tiny-image --mode approximate", USER, "cbirdb index build"),
    ("index build without embeddings", "index build -e resnet50", USER, "There are no embeddings"),
    ("index with a wrong m", "index build -e tiny-image --m 1", USAGE, "--m must lie between"),
    ("index with a wrong ef", "index build -e tiny-image --ef-search 0", USAGE, "--ef-search must lie between"),
    # numbers and words
    ("k of zero", "search --image-id 1 -e tiny-image -k 0", USAGE, "is not in the range"),
    ("k below zero", "search --image-id 1 -e tiny-image -k -3", USAGE, "is not in the range"),
    ("k too large for an integer", "search --image-id 1 -e tiny-image -k 3000000000", USAGE, "is not in the range"),
    ("k that is no number", "search --image-id 1 -e tiny-image -k x", USAGE, "not a valid integer"),
    ("k of zero in evaluate", "evaluate -e tiny-image -k 0", USAGE, "is not in the range"),
    ("k too large in evaluate", "evaluate -e tiny-image -k 99999999", USAGE, "is not in the range"),
    ("seed too large for a bigint", f"evaluate -e tiny-image --seed {10**20}", USAGE, "--seed"),
    ("run too large for a bigint", f"metrics --run {10**20}", USAGE, "is not in the range"),
    ("n that is no number", "metrics -n x", USAGE, "not a list of numbers"),
    ("n that is empty", "metrics -n ''", USAGE, "not a list of numbers"),
    ("n with an empty item", "metrics -n 1,,3", USAGE, "not a list of numbers"),
    ("n backwards", "metrics -n 3-1", USAGE, "not a list of numbers"),
    ("n in superscript", "metrics -n ²", USAGE, "not a list of numbers"),
    ("n of zero", "metrics -n 0", USAGE, "not a list of numbers"),
    ("n above the run's k", "metrics -n 4", USER, "P@4 is not available"),
    ("split of two", "ingest folder {}/good --split 80/20", USAGE, "is not a split"),
    ("split of words", "ingest folder {}/good --split a/b/c", USAGE, "is not a split"),
    ("split in superscript", "ingest folder {}/good --split ²/48/50", USAGE, "is not a split"),
    ("split beyond 100", "ingest folder {}/good --split 80/10/20", USAGE, "not 100"),
    ("label pattern that does not parse", "ingest folder {}/good --label-pattern '('", USAGE, "not a regular expression"),
    ("option that the reader does not use", "ingest folder {}/good --labels-only", USAGE, "it is for radimagenet"),
    ("label pattern without label", "ingest folder {}/good --label-pattern x", USAGE, "no group named 'label'"),
    ("dataset with an empty name", "ingest folder {}/good --name ''", USAGE, "it is empty"),
    ("name taken by another folder", "ingest folder {}/good/train --name good", USER, "--moved"),
    ("unknown format of metrics", "metrics --format xml", USAGE, "'xml' is not one of"),
    ("unknown grouping of metrics", "metrics --by colour", USAGE, "'colour' is not one of"),
    ("impossible date", "search --image-id 1 -e tiny-image --study-from 2020-13-45", USAGE, "does not match the format"),
    ("unknown device of encode", "encode -e tiny-image --device tpu", USAGE, "'tpu' is not one of"),
    ("precision other than the stored one", "encode -e tiny-image --precision single", USER, "half precision"),
    ("batch of zero", "encode -e tiny-image --batch-size 0", USAGE, "--batch-size"),
    ("encode without an encoder", "encode", USAGE, "Missing option '-e'"),
    ("unknown dtype", "encode -e tiny-image --dtype int8", USAGE, "'int8' is not one of"),
    ("image timeout of zero", "encode -e tiny-image --image-timeout 0", USAGE, "--image-timeout"),
    ("max pixels of zero", "encode -e tiny-image --max-pixels 0", USAGE, "--max-pixels"),
    ("more pixels than Pillow decodes", "encode -e tiny-image --max-pixels 178956971", USAGE, "--max-pixels"),
    ("zero workers", "encode -e tiny-image --workers 0", USAGE, "--workers"),
    ("shard after the last", "encode -e tiny-image --shard 2/2", USAGE, "'2/2' is not a shard"),
    ("zero shards", "encode -e tiny-image --shard 0/0", USAGE, "'0/0' is not a shard"),
    ("shard before the first", "encode -e tiny-image --shard -1/2", USAGE, "'-1/2' is not a shard"),
    ("shard that is a word", "encode -e tiny-image --shard x", USAGE, "'x' is not a shard"),
    # the database and what is in it
    ("starting a named server", "db start", DATABASE, "is for the embedded server"),
    ("stopping a named server", "db stop", DATABASE, "is for the embedded server"),
    ("unknown option of upgrade", "db upgrade --if-neded", USAGE, "Did you mean '--if-needed'?"),
    ("row security as another word", "db row-security maybe", USAGE, "'maybe' is not one of"),
    ("unknown format of roles", "db roles --format xml", USAGE, "'xml' is not one of"),
    ("unknown format of status", "db status --format xml", USAGE, "'xml' is not one of"),
    ("unknown format of doctor", "db doctor --format xml", USAGE, "'xml' is not one of"),
    ("unknown option of doctor", "db doctor --fix", USAGE, "No such option '--fix'"),
    ("unknown format of readers", "datasets list --format xml", USAGE, "'xml' is not one of"),
    ("drop of an unknown dataset", "datasets drop god", USER, "Did you mean 'good'?"),
    ("drop of a dataset in capital letters", "datasets drop GOOD --yes", USER, "Did you mean 'good'?"),
    ("drop of a dataset with an empty name", "datasets drop '' --yes", USER, "Known: good"),
    ("drop without a dataset", "datasets drop --yes", USAGE, "Missing argument 'NAME'"),
    ("drop of a dataset with a wrong option", "datasets drop good --y", USAGE, "Did you mean '--yes'?"),
    ("unknown stage of failures", "failures --stage index", USAGE, "'index' is not one of"),
    ("failures with an empty stage option", "failures --stage", USAGE, "requires an argument"),
    ("unknown format of failures", "failures --format xml", USAGE, "'xml' is not one of"),
    # published vectors
    ("import without a file", "import-embeddings -e new", USAGE, "Missing argument 'FILES...'"),
    ("import without an encoder", "import-embeddings {}/vectors.h5", USAGE, "Missing option '-e'"),
    ("HDF5 that is a folder", "import-embeddings -e new {}/empty", USER, "not a readable HDF5 file"),
    ("HDF5 without vectors", "import-embeddings -e new {}/nothing.h5", USER, "no vector in these files"),
    ("vectors of another dimension", "import-embeddings -e tiny-image {}/vectors.h5", USER, "has 1024 dimensions"),
    ("vectors of an unknown dataset", "import-embeddings -e new -d god {}/vectors.h5", USER, "Did you mean 'good'?"),
    ("vectors with an unknown precision", "import-embeddings -e new --precision x {}/vectors.h5", USAGE, "'x' is not one of"),
    # building and auditing indexes
    ("index build without an encoder", "index build", USAGE, "Missing option '-e'"),
    ("index of an unknown method", "index build -e tiny-image --method flat", USAGE, "'flat' is not one of"),
    ("index with an option of another method", "index build -e tiny-image --method hnsw --lists 5", USAGE, "not an option of hnsw"),
    ("index with a width at 100 below that at 10", "index build -e tiny-image --method hnsw --at-100 5", USAGE, "--at-100 must be"),
    ("index with a sample of zero", "index build -e tiny-image --sample 0", USAGE, "is not in the range"),
    ("index for zero searches", "index build -e tiny-image --searches 0", USAGE, "is not in the range"),
    ("index with a floor above 1", "index build -e tiny-image --floor-recall 2", USAGE, "is not in the range"),
    ("audit without an encoder", "index audit", USAGE, "Missing option '-e'"),
    ("audit without an index", "index audit -e tiny-image", USER, "has no vector index"),
    ("audit of an unknown encoder", "index audit -e tiny-imag", USER, "Did you mean 'tiny-image'?"),
    ("audit without embeddings", "index audit -e resnet50", USER, "no embeddings of 'resnet50'"),
    ("audit with a negative floor", "index audit -e tiny-image --max-share-without-hit -1", USAGE, "is not in the range"),
    ("index drop without an encoder", "index drop", USAGE, "Missing option '-e'"),
    ("index drop with an unknown encoder", "index drop -e tiny-imag", USER, "Did you mean 'tiny-image'?"),
    ("index drop without embeddings", "index drop -e resnet50", USER, "no embeddings of 'resnet50'"),
    ("index drop with an unknown option", "index drop -e tiny-image --yes", USAGE, "No such option '--yes'"),
    ("index status without an encoder", "index status", USAGE, "Missing option '-e'"),
    ("index status with an unknown encoder", "index status -e tiny-imag", USER, "Did you mean 'tiny-image'?"),
    ("index status without embeddings", "index status -e resnet50", USER, "no embeddings of 'resnet50'"),
    ("unknown format of index status", "index status -e tiny-image --format xml", USAGE, "'xml' is not one of"),
    # what an evaluation says
    ("evaluation without an encoder", "evaluate", USAGE, "Missing option '-e'"),
    ("evaluation of an unknown split", "evaluate -e tiny-image --query-split tset", USAGE, "'tset' is not one of"),
    ("evaluation by an unknown protocol", "evaluate -e tiny-image --protocol other", USAGE, "'other' is not one of"),
    ("comparison without encoders", "compare", USAGE, "needs two encoders"),
    ("comparison of one encoder", "compare -e tiny-image", USAGE, "needs two encoders"),
    ("comparison with itself", "compare -e tiny-image -e tiny-image", USAGE, "needs two encoders"),
    ("comparison with an unknown encoder", "compare -e tiny-image -e tiny-imag", USER, "Did you mean 'tiny-image'?"),
    ("comparison with an encoder without embeddings", "compare -e tiny-image -e resnet50", USER, "Run: cbirdb encode -e resnet50"),
    ("comparison with one resample", "compare -e tiny-image -e resnet50 --resamples 1", USAGE, "--resamples"),
    ("leakage without an encoder", "leakage", USAGE, "Missing option '-e'"),
    ("leakage of an unknown encoder", "leakage -e tiny-imag", USER, "Did you mean 'tiny-image'?"),
    ("leakage of an unknown run", "leakage -e tiny-image --run 999", USER, "no finished evaluation run 999"),
    ("leakage with a distance above 2", "leakage -e tiny-image --near 3", USAGE, "--near"),
    ("leakage with a distance that is no number", "leakage -e tiny-image --near nan", USAGE, "nan is not a number"),
    ("leakage with n as a word", "leakage -e tiny-image -n x", USAGE, "not a list of numbers"),
    ("leakage with n above the run's k", "leakage -e tiny-image -n 4", USER, "P@4 is not available"),
    ("classification without an encoder", "classify", USAGE, "Missing option '-e'"),
    ("classification by an unknown encoder", "classify -e tiny-imag", USER, "Did you mean 'tiny-image'?"),
    ("classification by an encoder without embeddings", "classify -e resnet50", USER, "Run: cbirdb encode -e resnet50"),
    ("classification without validation", "classify -e tiny-image", USER, "--query-split val"),
    ("classification by an unknown figure", "classify -e tiny-image --by f1", USAGE, "'f1' is not one of"),
    ("classification by an unknown method", "classify -e tiny-image --method svm", USAGE, "'svm' is not one of"),
    ("classification by neighbours with a grid", "classify -e tiny-image --grid 1", USAGE, "--method knn and --grid"),
    ("linear probe of an unknown encoder", "classify -e tiny-imag --method linear", USER, "Did you mean 'tiny-image'?"),
    ("linear probe without embeddings", "classify -e resnet50 --method linear", USER, "Run: cbirdb encode -e resnet50"),
    ("linear probe without validation", "classify -e tiny-image --method linear", USER, "Split 'val' has no image"),
    ("linear probe of an unknown dataset", "classify -e tiny-image --method linear -d god", USER, "Did you mean 'good'?"),
    ("linear probe with a word for C", "classify -e tiny-image --method linear --grid x", USAGE, "not a list of numbers"),
    ("linear probe with C = 0", "classify -e tiny-image --method linear --grid 0,1", USAGE, "above 0"),
    ("linear probe with C that is no number", "classify -e tiny-image --method linear --grid nan", USAGE, "above 0"),
    ("figures of a missing linear probe", "metrics --by linear", USER, "There is no linear probe."),
    ("figures of an unknown linear probe", "metrics --by linear --run 9", USER, "There is no linear probe 9."),
    ("figures of a linear probe at N", "metrics --by linear -n 5", USAGE, "--by linear and -n cannot be combined"),
    # erasing
    ("erasing without a patient", "erase", USAGE, "Give exactly one of --patient"),
    ("erasing and listing", "erase --patient nobody --list", USAGE, "Give exactly one of --patient"),
    ("erasing an unknown patient", "erase --patient nobody", USER, "There is no patient with this pseudonym."),
    ("erasing in an unknown dataset", "erase --patient nobody --dataset god", USER, "Did you mean 'good'?"),
    ("erasing a patient who is not in the dataset", "erase --patient nobody --dataset good", USER, 'in dataset "good".'),
    ("erasing with a missing key file", "erase --patient-id 7 --pseudonym-key {}/nowhere", USER, "no pseudonym key"),
    ("erasing with a wrong key", "erase --patient-id 7 --pseudonym-key {}/note.txt", USER, "not a pseudonym key"),
    ("erasing by a missing certificate", "erase --from-certificate {}/nowhere.json", USER, "There is no file"),
    ("erasing by a wrong certificate", "erase --from-certificate {}/note.txt", USER, "holds no certificates"),
    ("list with a dataset", "erase --list --dataset good", USAGE, "--dataset needs --patient"),
    ("reapply with a dataset", "erase --reapply --dataset good", USAGE, "--dataset needs --patient"),
    ("certificate that cannot be written", "erase --list --certificate /proc/erased.json", USER, "cannot be written"),
    ("certificate in a missing folder", "erase --list --certificate {}/no/a.json", USER, "There is no folder"),
    ("certificate over another file", "erase --list --certificate {}/note.txt", USER, "never overwritten"),
    # the demo
    ("demo on an unknown device", "demo --out {}/out --device tpu", USAGE, "'tpu' is not one of"),
    ("demo with a missing folder of weights", "demo --out {}/out --encoder resnet50 --weights {}/nowhere", USER, "does not exist"),
    ("unknown format of the demo", "demo --out {}/out --format xml", USAGE, "'xml' is not one of"),
    # records of encoders
    ("unknown format of encoders", "encoders list --format xml", USAGE, "'xml' is not one of"),
    ("show without an encoder", "encoders show", USAGE, "Missing argument 'NAME'"),
    ("show of an empty encoder name", "encoders show ''", USER, "Known: biomedclip"),
    ("unknown format of an encoder", "encoders show tiny-image --format xml", USAGE, "'xml' is not one of"),
    ("show of an unknown encoder without a similar one", "encoders show zzzzzz", USER, "Known: biomedclip"),
    ("fetch without an encoder", "encoders fetch", USAGE, "Missing argument 'NAME...'"),
    ("fetch into a file", "encoders fetch resnet50 --to {}/note.txt", USAGE, "is a file"),
    ("fetch of a known and an unknown encoder", "encoders fetch resnet50 zzzzzz --to {}/to", USER, "'zzzzzz'"),
    ("fetch of all and of one", "encoders fetch resnet50 --all", USAGE, "not both"),
    ("verify of a bundle and of an encoder", "encoders verify resnet50 --bundle {}", USAGE, "goes without NAME"),
    ("verify of a folder that is no bundle", "encoders verify --bundle {}/no_weights", USER, "is no bundle"),
    ("verify of a missing bundle", "encoders verify --bundle {}/nowhere", USER, "is no bundle"),
    ("digits of no weights", "encode -e resnet50@1234567 --weights {}/no_weights", USER, "no encoder named"),
    ("verify without an encoder", "encoders verify", USAGE, "Missing argument 'NAME'"),
    ("verify with a missing folder of weights", "encoders verify resnet50 --weights {}/nowhere", USER, "does not exist"),
    ("verify on an unknown device", "encoders verify tiny-image --device tpu", USAGE, "'tpu' is not one of"),
    ("drop without an encoder", "encoders drop --yes", USAGE, "Missing argument 'NAME'"),
    ("drop of an empty encoder name", "encoders drop '' --yes", USER, "Known: biomedclip"),
    ("drop of an unknown encoder without a similar one", "encoders drop zzzzzz", USER, "Known: biomedclip"),
    ("drop of an encoder without embeddings", "encoders drop resnet50", USER, "no embeddings of 'resnet50'"),
    ("unknown encoder in verify", "encoders verify tiny-imag", USER, "Did you mean 'tiny-image'?"),
    ("unknown encoder in fetch", "encoders fetch tiny-imag", USER, "Did you mean 'tiny-image'?"),
    ("fetch of an encoder without weights", "encoders fetch tiny-image --to {}/to", USER, "there is nothing to fetch"),
    ("export without a folder", "encoders export tiny-image", USAGE, "Missing option '--onnx'"),
    ("export of an encoder without weights", "encoders export tiny-image --onnx {}/to", USER, "nothing to export"),
    ("export into a file", "encoders export resnet50 --onnx {}/note.txt", USAGE, "is a file"),
    ("unknown encoder in export", "encoders export tiny-imag --onnx {}/to", USER, "Did you mean 'tiny-image'?"),
    ("verify with an empty folder of weights", "encoders verify resnet50 --weights {}/no_weights", USER, "has no file"),
    ("add under the name of a shipped encoder", "encoders add resnet50 --loader hf --weights a/b", USER, "ships with cbirdb"),
    ("add under a name that shares a shipped encoder's table", "encoders add tiny.image --loader hf --weights a/b", USER, "would share the table"),
    ("add with capital letters", "encoders add Tiny_Image --loader hf --weights a/b", USER, "is not a valid encoder name"),
    ("add without a name", "encoders add --loader hf --weights a/b", USAGE, "Missing argument 'NAME'"),
    ("add an empty name", "encoders add '' --loader hf --weights a/b", USER, "is not a valid encoder name"),
    ("add a name without letters", "encoders add ??? --loader hf --weights a/b", USER, "is not a valid encoder name"),
    ("add a long name", f"encoders add {'a' * 41} --loader hf --weights a/b", USER, "is not a valid encoder name"),
    ("add a path for a name", "encoders add ../evil --loader hf --weights a/b", USER, "is not a valid encoder name"),
    ("add without weights", "encoders add new --loader hf", USAGE, "Missing option '--weights'"),
    ("add with empty weights", "encoders add new --loader hf --weights ''", USAGE, "it is empty"),
    ("add from one word", "encoders add new --loader hf --weights nowhere", USER, "neither a folder"),
    ("add from a path of three parts", "encoders add new --loader hf --weights a/b/c", USER, "neither a folder"),
    ("add from an owner alone", "encoders add new --loader hf --weights a/", USER, "neither a folder"),
    ("add from names with spaces", "encoders add new --loader hf --weights 'a b/c d'", USER, "neither a folder"),
    ("add from an address", "encoders add new --loader hf --weights https://a.b/c.bin", USER, "neither a folder"),
    ("add from a missing absolute folder", "encoders add new --loader hf --weights {}/nowhere", USER, "neither a folder"),
    ("add from a missing relative folder", "encoders add new --loader hf --weights ./nowhere", USER, "neither a folder"),
    ("add from a missing folder in the home folder", "encoders add new --loader hf --weights ~/nowhere", USER, "neither a folder"),
    ("add from a file", "encoders add new --loader hf --weights {}/note.txt", USER, "neither a folder"),
    ("add with an unknown loader", "encoders add new --loader keras --weights a/b", USAGE, "'keras' is not one of"),
    ("pooling of another loader", "encoders add new --loader timm --weights a/b --pooling cls", USAGE, "--pooling is for"),
    ("unknown pooling", "encoders add new --loader hf --weights a/b --pooling max", USAGE, "'max' is not one of"),
    ("QuickGELU with another loader", "encoders add new --loader hf --weights a/b --quick-gelu", USAGE, "--quick-gelu is for"),
    ("DINOv2's offset with another loader", "encoders add new --loader timm --weights a/b --interpolate-offset 0.1", USAGE, "--interpolate-offset is for"),
    ("DINOv2's offset of a whole patch", "encoders add new --loader hf --weights a/b --interpolate-offset 1", USAGE, "0<=x<1"),
    ("unknown training scheme", "encoders add new --loader hf --weights a/b --training hard", USAGE, "'hard' is not one of"),
    ("dimension of zero", "encoders add new --loader hf --weights a/b --dim 0", USAGE, "--dim"),
    ("more dimensions than an index takes", "encoders add new --loader hf --weights a/b --dim 4001", USAGE, "--dim"),
    # values that cannot be right
    ("empty purpose", "search --image-id 1 -e tiny-image --purpose ''", USAGE, "it is empty"),
    ("purpose of white space", "search --image-id 1 -e tiny-image --purpose ' \u2003 '", USAGE, "white space alone"),
    ("purpose of two lines", "search --image-id 1 -e tiny-image --purpose 'a\nb'", USAGE, "a line break"),
    ("purpose that is too long", f"search --image-id 1 -e tiny-image --purpose {'x' * 1001}", USAGE, "1,001 characters"),
    ("first study date after the last", "search --image-id 1 -e tiny-image --study-from 2026-02-01 --study-to 2026-01-31", USAGE, "lies after"),
    ("image id of zero", "search --image-id 0 -e tiny-image", USAGE, "is not in the range"),
    ("negative image id", "search --image-id -1 -e tiny-image", USAGE, "is not in the range"),
    ("empty dataset filter", "search --image-id 1 -e tiny-image --dataset ''", USAGE, "it is empty"),
    ("blank modality filter", "search --image-id 1 -e tiny-image --modality ' '", USAGE, "white space alone"),
    ("empty region filter", "search --image-id 1 -e tiny-image --anatomic-region ''", USAGE, "it is empty"),
    ("empty label filter", "search --image-id 1 -e tiny-image --label ''", USAGE, "it is empty"),
    ("empty SOP instance UID", "search --sop-uid '' -e tiny-image", USAGE, "it is empty"),
    ("empty query name", "search --image '' -e tiny-image", USAGE, "it is empty"),
    ("empty sheet name", "search --image-id 1 -e tiny-image --sheet ''", USAGE, "it is empty"),
    ("empty list of images", "search --image-id 1 -e tiny-image --images ''", USAGE, "not a list of image ids"),
    ("search with an empty encoder", "search --image-id 1 -e ''", USAGE, "it is empty"),
    ("encode with an empty encoder", "encode -e ''", USAGE, "it is empty"),
    ("encode with an empty dataset", "encode -e tiny-image -d ''", USAGE, "it is empty"),
    ("encode with a limit of zero", "encode -e tiny-image --limit 0", USAGE, "is not in the range"),
    ("encode with a limit too large", f"encode -e tiny-image --limit {10**30}", USAGE, "is not in the range"),
    ("more workers than any machine has", "encode -e tiny-image --workers 10001", USAGE, "is not in the range"),
    ("batch size too large", f"encode -e tiny-image --batch-size {10**30}", USAGE, "is not in the range"),
    ("image timeout that is no number", "encode -e tiny-image --image-timeout nan", USAGE, "nan is not a number"),
    ("image timeout that is infinite", "encode -e tiny-image --image-timeout inf", USAGE, "is not in the range"),
    ("empty name of weights", "encode -e tiny-image --weights ''", USAGE, "it is empty"),
    ("empty name of the images folder", "ingest paper-csv {}/empty --images ''", USAGE, "it is empty"),
    ("name of two lines", "ingest folder {}/good --name 'a\nb'", USAGE, "a line break"),
    ("name of white space", "ingest folder {}/good --name '\u3000'", USAGE, "white space alone"),
    ("name with a bell character", "ingest folder {}/good --name 'a\ab'", USAGE, "another control character"),
    ("modality of two lines", "ingest folder {}/good --modality 'a\nb'", USAGE, "a line break"),
    ("region with an escape sequence", "ingest folder {}/good --anatomic-region 'a\x1b[31m'", USAGE, "another control"),
    ("ingest with a limit too large", f"ingest folder {{}}/good --limit {10**30}", USAGE, "is not in the range"),
    ("evaluation with too little memory", "evaluate -e tiny-image --memory 1", USAGE, "is not in the range"),
    ("evaluation with too much memory", f"evaluate -e tiny-image --memory {10**30}", USAGE, "is not in the range"),
    ("evaluation with a floor that is no number", "evaluate -e tiny-image --floor-recall nan", USAGE, "nan is not a number"),
    ("evaluation with an infinite floor", "evaluate -e tiny-image --max-share-without-hit inf", USAGE, "is not in the range"),
    ("evaluation with a negative seed", "evaluate -e tiny-image --split-seed -1", USAGE, "is not in the range"),
    ("metrics of run 0", "metrics --run 0", USAGE, "is not in the range"),
    ("metrics with an empty encoder", "metrics -e ''", USAGE, "it is empty"),
    ("confidence intervals of an analysis", "metrics --by anatomy --confidence", USAGE, "--confidence is not available for"),
    ("leakage of run 0", "leakage -e tiny-image --run 0", USAGE, "is not in the range"),
    ("index with a sample too large", f"index build -e tiny-image --sample {10**30}", USAGE, "is not in the range"),
    ("sample for a method that is named", "index build -e tiny-image --method hnsw --sample 5", USAGE, "is for --method auto"),
    ("searches for a method that is named", "index build -e tiny-image --m 8 --searches 5", USAGE, "is for --method auto"),
    ("index with a floor but without an audit", "index build -e tiny-image --method hnsw --no-audit --floor-recall 0.5", USAGE, "omit it"),
    ("index with a negative seed", "index build -e tiny-image --seed -1", USAGE, "is not in the range"),
    ("audit with a sample of zero", "index audit -e tiny-image --sample 0", USAGE, "is not in the range"),
    ("erasing an empty pseudonym", "erase --patient '' --yes", USAGE, "it is empty"),
    ("erasing an empty patient id", "erase --patient-id '' --yes", USAGE, "it is empty"),
    ("erasing in an empty dataset", "erase --patient nobody --dataset '' --yes", USAGE, "it is empty"),
    ("empty certificate name", "erase --list --certificate ''", USAGE, "it is empty"),
    ("licence of two lines", "encoders add new --loader hf --weights a/b --licence 'a\nb'", USAGE, "a line break"),
    ("demo with an empty encoder", "demo --out {}/out --encoder ''", USAGE, "it is empty"),
    ("demo with an empty folder", "demo --out ''", USAGE, "it is empty"),
    ("empty connection string", "--dsn '' db status", USAGE, "it is empty"),
    ("empty home folder", "--home '' db status", USAGE, "it is empty"),
    ("unknown option of psql", "db psql --nonsense", USAGE, "nonsense not recognized"),
    ("one argument too many of psql", "db psql one two three", USAGE, "one argument too many"),
    ("invalid connection string of psql", "db psql -d colour=red", USAGE, "after -d is not valid"),
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
    lines = [line for line in err.splitlines() if line and not line.startswith(("Usage: ", "Try 'cbirdb", "loading "))]
    assert len(lines) == 1, err
    assert lines[0].startswith("Error: ")
    assert lines[0].endswith((".", "?")) or ": cbirdb " in lines[0], "neither a whole sentence nor a command to run"
    assert row_counts(world.dsn) == before


def test_huge_range_of_n_is_refused_within_one_gigabyte_of_memory() -> None:
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
    assert "OptionError" in done.stderr


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
