"""Test ``cbirdb encode --shard I/N``: shards cover all images, do not overlap, and count only their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest

from cbirdb.records import Shard
from tests.conftest import Outcome, write_csv
from tests.support.encode_checks import encode
from tests.support.worker_encoders import Projection

Cli = Callable[..., Outcome]


@pytest.fixture
def ingested(cli: Cli, class_folder: Path) -> Path:
    assert cli("ingest", "folder", class_folder).code == 0
    return class_folder


def image_ids(connection: psycopg.Connection) -> set[int]:
    return {row[0] for row in connection.execute("SELECT image_id FROM cbir.embedding_projection").fetchall()}


def sharded(cli: Cli, *arguments: object) -> Outcome:
    return cli("encode", "-e", "tiny-image", "--format", "json", *arguments)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shards_cover_all_images_and_do_not_overlap(connection: psycopg.Connection, ingested: Path, count: int) -> None:
    done = [set()]
    for index in range(count):
        (summary,) = encode(connection, [Projection()], shard=Shard(index, count))
        done.append(image_ids(connection))
        assert summary.encoded == len(done[-1] - done[-2])
        assert (summary.already_there, summary.failed) == (0, 0), "it counts images that are not its own"
        assert abs(summary.encoded - 20 / count) < 1, "shares are not equal"
    assert all(before <= after for before, after in pairwise(done))
    assert len(done[-1]) == 20
    (summary,) = encode(connection, [Projection()], shard=Shard(0, 1))
    assert (summary.encoded, summary.already_there) == (0, 20)


def test_finished_shard_is_skipped_and_another_division_encodes_the_rest(
    connection: psycopg.Connection, ingested: Path
) -> None:
    encode(connection, [Projection()], shard=Shard(1, 2))
    (summary,) = encode(connection, [Projection()], shard=Shard(1, 2))
    assert (summary.encoded, summary.already_there) == (0, 10)
    found = [encode(connection, [Projection()], shard=Shard(index, 3))[0] for index in range(3)]
    assert sum(summary.encoded for summary in found) == sum(summary.already_there for summary in found) == 10


def test_shard_may_be_empty(connection: psycopg.Connection, ingested: Path) -> None:
    (highest,) = connection.execute("SELECT max(image_id) FROM cbir.image").fetchone()
    (summary,) = encode(connection, [Projection()], shard=Shard(highest + 1, highest + 2))
    assert (summary.encoded, summary.already_there, summary.failed) == (0, 0, 0)


def test_limit_counts_only_images_of_the_shard(connection: psycopg.Connection, ingested: Path) -> None:
    (summary,) = encode(connection, [Projection()], shard=Shard(1, 2), limit=3)
    assert summary.encoded == 3
    assert {number % 2 for number in image_ids(connection)} == {1}


def test_each_shard_counts_only_its_own_failures_and_missing_files(
    cli: Cli, connection: psycopg.Connection, ingested: Path, tmp_path: Path
) -> None:
    row = {"filepath": "a.png", "dataset": "P", "split": "train", "modality": "XR", "anatomic_region": "chest", "N": 1}
    rows = [row | {"filepath": f"{number}.png"} for number in range(6)]
    cli("ingest", "paper-csv", write_csv(tmp_path / "p.csv", rows))
    for number in range(4):
        (ingested / "nodule" / f"{number:02}.png").unlink()
    outcomes = [sharded(cli, "--shard", f"{index}/2") for index in range(2)]
    assert [outcome.code for outcome in outcomes] == [4, 4]
    counted = [outcome.rows[0] for outcome in outcomes]
    assert [row["encoded"] for row in counted] == [8, 8]
    assert [row["failed"] for row in counted] == [2, 2]
    assert [row["without_file"] for row in counted] == [3, 3]
    assert connection.execute("SELECT count(*) FROM cbir.failure WHERE occurrences = 1").fetchone() == (4,)


@pytest.mark.parametrize(
    ("environment", "launcher"),
    [
        ({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, "torchrun"),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1"}, "Slurm"),
    ],
    ids=["torchrun", "step"],
)
def test_launcher_variables_choose_the_shard_and_encode_says_so(
    cli: Cli, ingested: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], launcher: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    outcome = sharded(cli)
    assert (outcome.code, outcome.rows[0]["encoded"]) == (0, 5)
    assert f"This is shard 1/4, from {launcher}'s variables" in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_slurm_script_without_srun_encodes_all_images_and_names_srun(
    cli: Cli, ingested: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    outcome = sharded(cli)
    assert (outcome.code, outcome.rows[0]["encoded"]) == (0, 20)
    assert "This process takes all images: Slurm's job has 4 tasks" in outcome.err
    assert "srun cbirdb encode" in outcome.err


def test_shard_option_overrides_the_launcher(cli: Cli, ingested: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "9")
    monkeypatch.setenv("WORLD_SIZE", "4")
    refused = sharded(cli)
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith("Error: torchrun set RANK=9 and WORLD_SIZE=4, which is no shard.")
    outcome = sharded(cli, "--shard", "0/2")
    assert (outcome.code, outcome.rows[0]["encoded"], outcome.err) == (0, 10, "")
    monkeypatch.setenv("CBIRDB_ENCODE_SHARD", "1/2")
    assert sharded(cli).rows[0]["encoded"] == 10
    assert sharded(cli, "--shard", "0/1").rows[0]["already_there"] == 20


@pytest.mark.parametrize("shard", ["2/2", "x", "0/0", "-1/2", ""])
def test_invalid_shard_gives_one_sentence(cli: Cli, ingested: Path, shard: str) -> None:
    outcome = sharded(cli, "--shard", shard)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"Error: '{shard}' is not a shard.")
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize("variable", ["LOCAL_RANK", "SLURM_LOCALID"])
def test_encoder_without_torch_runs_without_torch_under_a_launcher(dsn: str, ingested: Path, variable: str) -> None:
    program = (
        "import sys\n"
        "sys.modules['torch'] = None  # as if it were not installed\n"
        "from cbirdb.cli.main import main\n"
        "main(['encode', '-e', 'tiny-image', '--format', 'csv'])"
    )
    environment = {**os.environ, "CBIRDB_DSN": dsn, variable: "0"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1] == "tiny-image,20,0,0,0"
