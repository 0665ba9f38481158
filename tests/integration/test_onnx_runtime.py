"""Encode a database's images first with torch and then with onnxruntime, or the other way round."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from cbirdb.encoders.onnx_folder import MANIFEST
from cbirdb.errors import ExitCode
from tests.conftest import Outcome
from tests.support.onnx_models import change_manifest
from tests.support.small_weights import write_small_resnet

Cli = Callable[..., Outcome]
ADD = ("encoders", "add", "ours", "--loader", "hf", "--pooling", "pooler")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_resnet(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def ingested(cli: Cli, class_folder: Path, weights: Path) -> Path:
    """Ingest twenty images and add a record of the small ResNet."""
    assert cli("ingest", "folder", class_folder).code == 0
    assert cli(*ADD, "--weights", weights).code == 0
    return class_folder


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def exported(cli: Cli, ingested: Path, kept: Path, tmp_path: Path) -> Path:
    """Return the parent of an export of the small ResNet, which the test may change. Exporting takes long."""
    if not (kept / "ours").exists():
        outcome = cli("encoders", "export", "ours", "--onnx", kept, "--format", "json")
        assert outcome.code == 0, outcome.err
    shutil.copytree(kept, tmp_path / "onnx")
    return tmp_path / "onnx"


def encode(cli: Cli, weights: Path, *arguments: object) -> dict[str, Any]:
    outcome = cli("encode", "-e", "ours", "--weights", weights, "--format", "json", *arguments)
    assert outcome.code == 0, outcome.err
    return outcome.rows[0]


def provenance(connection: psycopg.Connection) -> dict[str, Any]:
    row = connection.execute("SELECT provenance FROM cbir.encoder WHERE name = 'ours'").fetchone()
    assert row is not None
    return row[0]


@pytest.mark.also_by_a_site
def test_table_begun_with_torch_goes_on_with_onnxruntime_and_its_record_names_both(
    cli: Cli, connection: psycopg.Connection, exported: Path, weights: Path
) -> None:
    assert encode(cli, weights, "--limit", 8)["encoded"] == 8
    assert (provenance(connection)["runtime"], provenance(connection).get("runtimes")) == ("torch", None)
    assert encode(cli, exported)["encoded"] == 12
    assert provenance(connection)["runtimes"] == ["torch", "onnxruntime"]
    assert provenance(connection)["runtime"] == "torch", "the first description was overwritten"
    assert encode(cli, exported)["already_there"] == 20
    assert provenance(connection)["runtimes"] == ["torch", "onnxruntime"]


def test_both_runtimes_give_the_same_stored_vectors(
    cli: Cli, connection: psycopg.Connection, exported: Path, weights: Path
) -> None:
    def stored() -> list[tuple[int, str]]:
        return connection.execute("SELECT image_id, embedding::text FROM cbir.embedding_ours ORDER BY 1").fetchall()

    encode(cli, exported, "--precision", "single")
    with_onnx = stored()
    assert provenance(connection)["runtime"] == "onnxruntime"
    connection.execute("TRUNCATE cbir.embedding_ours")
    encode(cli, weights)
    assert provenance(connection)["runtimes"] == ["onnxruntime", "torch"]
    for (image, before), (same_image, now) in zip(with_onnx, stored(), strict=True):
        assert image == same_image
        assert json.loads(now) == pytest.approx(json.loads(before), abs=1e-4)


def test_record_of_an_earlier_version_reads_as_torch(
    cli: Cli, connection: psycopg.Connection, exported: Path, weights: Path
) -> None:
    encode(cli, weights, "--limit", 8)
    connection.execute("UPDATE cbir.encoder SET provenance = provenance - 'runtime' WHERE name = 'ours'")
    encode(cli, weights, "--limit", 1)
    assert "runtimes" not in provenance(connection)
    encode(cli, exported, "--limit", 1)
    assert provenance(connection)["runtimes"] == ["torch", "onnxruntime"]


@pytest.mark.parametrize("changed", ["weights_sha256", "preprocessing_sha256"])
def test_export_from_other_weights_or_preprocessing_is_refused(
    changed: str, cli: Cli, exported: Path, weights: Path
) -> None:
    encode(cli, weights, "--limit", 8)
    change_manifest(exported / "ours", **{changed: "0" * 64})
    outcome = cli("encode", "-e", "ours", "--weights", exported)
    assert outcome.code == ExitCode.USER
    assert f"made with other {changed.removesuffix('_sha256')}" in outcome.err


def test_other_network_that_claims_the_stored_hashes_is_refused_by_the_fixed_picture(
    cli: Cli, connection: psycopg.Connection, exported: Path, weights: Path, tmp_path: Path
) -> None:
    encode(cli, weights, "--limit", 8)
    other = write_small_resnet(tmp_path / "other", number=1)
    assert cli("encoders", "export", "ours", "--weights", other, "--onnx", tmp_path / "forged").code == 0
    true = json.loads((exported / "ours" / MANIFEST).read_text())
    change_manifest(tmp_path / "forged" / "ours", weights_sha256=true["weights_sha256"])
    outcome = cli("encode", "-e", "ours", "--weights", tmp_path / "forged")
    assert outcome.code == ExitCode.USER
    assert "no longer computes its stored embeddings" in outcome.err
    assert "runtime onnxruntime, then torch" in outcome.err
    assert "runtimes" not in provenance(connection)


def test_site_cannot_write_a_runtime_of_its_own(cli: Cli, connection: psycopg.Connection, ingested: Path) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="torch, onnxruntime or numpy"):
        connection.execute("SELECT cbir_internal.note_runtime('ours', 'abacus')")


def test_verify_compares_an_export_with_the_first_use_with_torch(cli: Cli, exported: Path, weights: Path) -> None:
    encode(cli, weights, "--limit", 8)
    outcome = cli("encoders", "verify", "ours", "--weights", exported, "--format", "json")
    assert outcome.code == 0, outcome.err
    assert [(row["check"], row["ok"]) for row in outcome.rows] == [
        ("files", "ok"), ("weights", "ok"), ("preprocessing", "ok"), ("golden embedding", "ok")
    ]  # fmt: skip


NO_TORCH = (
    "import sys\n"
    "sys.modules.update(dict.fromkeys(['torch', 'transformers', 'timm', 'open_clip', 'onnx', 'huggingface_hub']))\n"
    "from cbirdb.cli.main import main\n"
    "main(sys.argv[1:])"
)


def test_encode_and_search_by_picture_need_no_torch(
    connection: psycopg.Connection, exported: Path, class_folder: Path, tmp_path: Path
) -> None:
    environment = {**os.environ, "CBIRDB_DSN": connection.info.dsn, "CBIRDB_HOME": str(tmp_path / "home")}

    def run(*arguments: object) -> list[dict[str, Any]]:
        command = [sys.executable, "-c", NO_TORCH, *map(str, arguments), "--weights", str(exported), "--format", "json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert run("encode", "-e", "ours", "--allow-root", class_folder)[0]["encoded"] == 20
    picture = next(class_folder.rglob("*.png"))
    nearest = run("search", "-e", "ours", "--image", picture, "-k", 1)[0]
    assert nearest["source"] == picture.relative_to(class_folder).as_posix()
