"""Test that vectors are only stored beside vectors made in the same way: hashes, number format, one fixed picture."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray
from psycopg.types.json import Jsonb

from cbirdb.encoders import registry
from cbirdb.encoders.base import Encoder, LoadOptions, WeightFiles
from cbirdb.encoders.spec import EncoderSpec
from cbirdb.errors import EncoderError
from cbirdb.vectors.normalize import cosine, l2_normalize
from tests.conftest import Outcome
from tests.support.encode_checks import encode
from tests.support.published_vectors import write
from tests.support.worker_encoders import Projection

pytestmark = pytest.mark.also_by_a_site

Cli = Callable[..., Outcome]
NAME = "projection"


class Family:
    """Load an encoder that a test may change, as if another machine had other weights or libraries."""

    FILES = WeightFiles((), ())

    def __init__(self) -> None:
        self.seed: str | None = None
        self.made: dict[str, Any] = {"libraries": {"pillow": "11.0", "numpy": "2.0"}}
        self.loaded: list[LoadOptions] = []

    def load(self, spec: EncoderSpec, _folder: object, options: LoadOptions) -> Encoder:
        self.loaded.append(options)
        encoder = Projection(spec.name, seed=self.seed)
        encoder.provenance = replace(encoder.provenance, **{"dtype": options.dtype, **self.made})
        return encoder


@pytest.fixture
def family(connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch) -> Family:
    """Register the family and add one of its records to the database."""
    found = Family()
    module = types.ModuleType("cbirdb.encoders.family_of_tests")
    module.FILES, module.load = found.FILES, found.load
    monkeypatch.setitem(sys.modules, module.__name__, module)
    spec = replace(Projection(NAME).spec, family="family_of_tests")
    monkeypatch.setattr(registry, "FAMILIES", {*registry.FAMILIES, "family_of_tests"})
    # The owner may: whoever else adds a record names a family that ships.
    connection.execute("INSERT INTO cbir.encoder_record (name, spec) VALUES (%s, %s)", [NAME, Jsonb(spec.as_json())])
    return found


@pytest.fixture
def ingested(cli: Cli, class_folder: Path) -> Path:
    assert cli("ingest", "folder", class_folder).code == 0
    return class_folder


def run(cli: Cli, *arguments: object) -> Outcome:
    return cli("encode", "-e", NAME, "--format", "json", *arguments)


def recorded(connection: psycopg.Connection) -> tuple[dict[str, Any], list[float] | None]:
    row = connection.execute("SELECT provenance, golden_embedding FROM cbir.encoder WHERE name = %s", [NAME]).fetchone()
    assert row is not None
    return row


def vectors(connection: psycopg.Connection) -> list[tuple[int, str]]:
    return connection.execute(f"SELECT image_id, embedding::text FROM cbir.embedding_{NAME} ORDER BY 1").fetchall()


# --- what is recorded ------------------------------------------------------------------------------------------------


def test_first_run_records_what_made_its_vectors(
    cli: Cli, connection: psycopg.Connection, ingested: Path, family: Family
) -> None:
    assert run(cli, "--dtype", "bfloat16").rows[0]["encoded"] == 20
    provenance, golden = recorded(connection)
    encoder = Projection(NAME)
    assert provenance == {
        "weights_sha256": encoder.provenance.weights_sha256,
        "preprocessing_sha256": encoder.provenance.preprocessing_sha256,
        "libraries": {"pillow": "11.0", "numpy": "2.0"},
        "dtype": "bfloat16",
        "device": "cpu",
        "runtime": "torch",
    }
    expected, _ = l2_normalize(encoder.golden[None])
    np.testing.assert_allclose(golden, expected[0], atol=1e-6)


def test_later_runs_keep_the_provenance_record(
    cli: Cli, connection: psycopg.Connection, ingested: Path, family: Family
) -> None:
    run(cli, "--limit", 5)
    before = connection.execute("SELECT * FROM cbir.encoder").fetchall()
    family.made["libraries"] = {"pillow": "12.0", "numpy": "2.0", "torch": "9.0"}
    family.made["device"] = "cuda"
    outcome = run(cli)
    assert (outcome.code, outcome.rows[0]["encoded"]) == (0, 15), "other versions alone are no reason to refuse"
    assert connection.execute("SELECT * FROM cbir.encoder").fetchall() == before


# --- number format ---------------------------------------------------------------------------------------------------


def test_another_dtype_is_refused_and_the_stored_dtype_is_named(
    cli: Cli, connection: psycopg.Connection, ingested: Path, family: Family
) -> None:
    run(cli, "--limit", 5, "--dtype", "float16")
    before = vectors(connection)
    outcome = run(cli, "--dtype", "float32")
    assert (outcome.code, outcome.out) == (1, "")
    assert len(outcome.err.splitlines()) == 1
    assert "were computed in float16, not float32" in outcome.err
    assert "--dtype float16" in outcome.err
    assert vectors(connection) == before


def test_default_dtype_is_that_of_the_stored_vectors(
    cli: Cli, connection: psycopg.Connection, ingested: Path, family: Family
) -> None:
    run(cli, "--limit", 5, "--dtype", "bfloat16")
    assert run(cli).rows[0]["encoded"] == 15
    query = next(ingested.rglob("*.png"))
    assert cli("search", "--image", query, "-e", NAME, "-k", 3, "--format", "json").code == 0
    assert cli("encoders", "verify", NAME).code == 0
    assert [options.dtype for options in family.loaded] == ["bfloat16"] * 4


def test_new_encoder_computes_in_float32(
    cli: Cli, connection: psycopg.Connection, ingested: Path, family: Family
) -> None:
    run(cli)
    assert [options.dtype for options in family.loaded] == ["float32"]
    assert recorded(connection)[0]["dtype"] == "float32"


# --- the fixed picture -----------------------------------------------------------------------------------------------


def check_refusal(message: str) -> None:
    assert len(message.splitlines()) == 1
    assert f"'{NAME}' no longer computes its stored embeddings" in message
    assert "at cosine" in message
    assert f"cbirdb encoders drop {NAME}" in message


def test_encoder_with_equal_hashes_but_other_output_is_refused(
    cli: Cli, connection: psycopg.Connection, ingested: Path, family: Family
) -> None:
    run(cli, "--limit", 5)
    before = vectors(connection), recorded(connection)
    family.seed = "changed"
    family.made["libraries"] = {"pillow": "12.5", "numpy": "2.0"}
    found = cosine(Projection(NAME).golden, Projection(NAME, seed="changed").golden)
    query = next(ingested.rglob("*.png"))
    for outcome in (run(cli), cli("search", "--image", query, "-e", NAME)):
        assert (outcome.code, outcome.out) == (1, "")
        check_refusal(outcome.err)
        assert f"at cosine {found:.5f}" in outcome.err
        assert "(pillow 12.5, then 11.0)" in outcome.err
    assert (vectors(connection), recorded(connection)) == before
    family.seed = None
    assert run(cli).rows[0]["encoded"] == 15


def test_unexplained_change_of_output_is_reported_as_such(connection: psycopg.Connection, ingested: Path) -> None:
    encode(connection, [Projection(NAME)])
    with pytest.raises(EncoderError, match="no other recorded difference") as refused:
        encode(connection, [Projection(NAME, seed="changed")])
    check_refusal(str(refused.value))


class Permuted(Projection):
    """Return the same numbers in another order."""

    def encode(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return super().encode(batch)[:, ::-1]


def test_encoder_with_permuted_output_is_refused(connection: psycopg.Connection, ingested: Path) -> None:
    encode(connection, [Projection(NAME)])
    with pytest.raises(EncoderError, match="at cosine"):
        encode(connection, [Permuted(NAME)])


def test_one_changed_encoder_stops_all_before_anything_is_encoded(
    connection: psycopg.Connection, ingested: Path
) -> None:
    encode(connection, [Projection(NAME)], limit=5)
    with pytest.raises(EncoderError):
        encode(connection, [Projection("other"), Projection(NAME, seed="changed")])
    assert len(vectors(connection)) == 5
    assert connection.execute("SELECT count(*) FROM cbir.embedding_other").fetchone() == (0,)


def turned(vector: Sequence[float], angle_cosine: float) -> list[float]:
    """Return a unit vector at this cosine to the given one."""
    unit = np.array(vector, dtype=np.float64)
    aside = np.roll(unit, 1)
    aside -= (aside @ unit) * unit
    aside /= np.linalg.norm(aside)
    return (angle_cosine * unit + np.sqrt(1 - angle_cosine**2) * aside).tolist()


@pytest.mark.parametrize(
    ("dtype", "found", "same"),
    [
        ("float32", 0.99999, True),
        ("float32", 0.9998, False),
        ("bfloat16", 0.9985, True),
        ("bfloat16", 0.997, False),
        ("float16", 0.9997, True),
        ("float16", 0.999, False),
    ],
)
def test_encoder_may_differ_by_rounding_of_its_dtype_and_no_more(
    cli: Cli, connection: psycopg.Connection, ingested: Path, family: Family, dtype: str, found: float, *, same: bool
) -> None:
    run(cli, "--limit", 5, "--dtype", dtype)
    _, golden = recorded(connection)
    assert golden is not None
    connection.execute("UPDATE cbir.encoder SET golden_embedding = %s::real[]", [turned(golden, found)])
    outcome = run(cli)
    assert outcome.code == (0 if same else 1)
    if not same:
        check_refusal(outcome.err)
        assert f"at cosine {found:.5f}" in outcome.err
    verified = cli("encoders", "verify", NAME, "--format", "json")
    assert verified.code == (0 if same else 4)
    assert verified.rows[-1]["ok"] == ("ok" if same else "DIFFERS")
    assert float(verified.rows[-1]["found"].split()[0]) == pytest.approx(found, abs=1e-5)


def test_search_by_image_id_loads_no_encoder(
    cli: Cli, connection: psycopg.Connection, ingested: Path, family: Family
) -> None:
    run(cli)
    family.seed = "changed"
    (first,) = connection.execute("SELECT min(image_id) FROM cbir.image").fetchone()
    assert len(cli("search", "--image-id", first, "-e", NAME, "-k", 3, "--format", "json").rows) == 3
    assert len(family.loaded) == 1


# --- embeddings that were not computed here --------------------------------------------------------------------------


def test_imported_embeddings_without_golden_embedding_do_not_block_the_encoder(
    cli: Cli, connection: psycopg.Connection, ingested: Path, family: Family, tmp_path: Path
) -> None:
    published = np.eye(6, dtype=np.float32)
    sources = [row[0] for row in connection.execute("SELECT source FROM cbir.image ORDER BY 1 LIMIT 6").fetchall()]
    file = write(tmp_path / "published.h5", dict(zip(sources, published, strict=True)))
    assert cli("import-embeddings", "-e", NAME, file).code == 4  # the other images have no vector
    assert recorded(connection)[1] is None
    before = vectors(connection)
    query = next(ingested.rglob("*.png"))
    assert cli("search", "--image", query, "-e", NAME, "-k", 3).code == 0
    assert cli("encoders", "verify", NAME).code == 0
    outcome = run(cli)
    assert (outcome.code, outcome.rows[0]["encoded"], outcome.rows[0]["already_there"]) == (0, 14, 6)
    assert vectors(connection)[:6] == before
