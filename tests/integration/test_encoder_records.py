"""Test ``cbirdb encoders``: list, show, add, drop and verify."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cbirdb.cli.main import run
from cbirdb.encoders.shipped import SHIPPED
from tests.conftest import Outcome

Cli = Callable[..., Outcome]
NINE = {
    "resnet50", "vit-b16", "sam-vit-b", "medsam-vit-b", "clip-vit-l14", "medclip-vit", "biomedclip", "mae-vit-b",
    "dinov2-vit-b14",
}  # fmt: skip
KEYS = {
    "encoder", "dim", "training", "in_paper", "licence", "licence_source", "restrictions", "confirmed", "weights",
    "revision", "embedding", "preprocessing", "added",
}  # fmt: skip
ADD = ("encoders", "add", "my-model", "--loader", "hf", "--weights", "some-lab/some-model")


def listed(cli: Cli) -> dict[str, dict[str, Any]]:
    outcome = cli("encoders", "list", "--format", "json")
    assert (outcome.code, outcome.err) == (0, "")
    return {row["encoder"]: row for row in outcome.rows}


def records(connection: psycopg.Connection) -> dict[str, dict[str, Any]]:
    return dict(connection.execute("SELECT name, spec FROM cbir.encoder_record").fetchall())


# --- list and show ---------------------------------------------------------------------------------------------------


def test_encoders_list_shows_the_nine_of_the_paper_with_all_columns(cli: Cli) -> None:
    found = listed(cli)
    assert {name for name, row in found.items() if row["in_paper"]} == NINE
    assert set(found) == set(SHIPPED)
    for name, row in found.items():
        assert set(row) == KEYS
        assert row["added"] is False
        for key in ("licence", "training", "embedding", "preprocessing"):
            assert row[key], (name, key)
        if name != "tiny-image":
            assert row["dim"] > 0
            assert row["weights"]
            assert len(row["revision"]) in {40, 64}, "neither a commit nor a checksum"


def test_encoders_list_names_every_shipped_encoder(cli: Cli) -> None:
    outcome = cli("encoders", "list")
    assert outcome.code == 0
    for name in SHIPPED:
        assert name in outcome.out


def test_encoders_show_prints_the_whole_record_of_an_encoder(cli: Cli) -> None:
    for name, spec in SHIPPED.items():
        (row,) = cli("encoders", "show", name, "--format", "json").rows
        assert row.pop("confirmed") == (
            None if name == "tiny-image" else "record" if spec.files else "not yet confirmed"
        )
        assert row == spec.as_json()


def test_encoders_list_marks_what_owners_exclude(cli: Cli) -> None:
    found = {name: row["restrictions"] for name, row in listed(cli).items() if row["restrictions"]}
    assert found == {
        "clip-vit-l14": "no deployed use", "biomedclip": "no clinical use; no deployed use",
        "mae-vit-b": "no commercial use", "rad-dino": "no clinical use",
        "medsiglip": "clinical use only with approval",
    }  # fmt: skip
    table = cli("encoders", "list").out
    assert "no commercial use" in table
    assert "not yet confirmed" in table


def test_encoders_list_and_show_do_not_create_a_database(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("CBIRDB_HOME", str(home))
    for command in (["list"], ["list", "--format", "json"], ["show", "resnet50"]):
        assert run(["encoders", *command]) == 0
        assert "resnet50" in capsys.readouterr().out
    assert run(["encoders", "show", "nowhere"]) == 1
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert not home.exists()


@pytest.mark.parametrize(
    ("dsn", "words"),
    [
        ("host=/nowhere dbname=x", "No server answers at"),
        ("nonsense", "connection string is not valid"),
    ],
)
def test_encoders_list_reports_an_unreachable_database_and_lists_shipped_encoders(
    capsys: pytest.CaptureFixture[str], dsn: str, words: str
) -> None:
    assert run(["--dsn", dsn, "encoders", "list"]) == 0
    out, err = capsys.readouterr()
    assert "biomedclip" in out
    assert err.startswith("Listing only the encoders that ship with cbirdb: ")
    assert words in err
    assert len(err.splitlines()) == 1
    assert run(["--dsn", dsn, "encoders", "show", "resnet50"]) == 0
    assert capsys.readouterr().err == "", "what ships needs no database"
    assert run(["--dsn", dsn, "encoders", "show", "my-model"]) == 1
    err = capsys.readouterr().err
    assert words in err
    assert "There is no encoder named 'my-model'" in err


def test_encoders_list_reports_a_missing_schema_and_lists_shipped_encoders(
    capsys: pytest.CaptureFixture[str], empty_database: str
) -> None:
    assert run(["--dsn", empty_database, "encoders", "list"]) == 0
    out, err = capsys.readouterr()
    assert "biomedclip" in out
    assert "cbirdb db upgrade" in err


# --- add -------------------------------------------------------------------------------------------------------------


def test_added_encoder_is_listed_shown_and_suggested(cli: Cli, connection: psycopg.Connection) -> None:
    outcome = cli(
        *ADD, "--revision", "abc123", "--dim", 768, "--pooling", "mean", "--licence", "MIT", "--training",
        "self-supervised", "--citation", "Some Lab, 2026",
    )  # fmt: skip
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "Added 'my-model'.\n")
    row = listed(cli)["my-model"]
    assert row == {
        "encoder": "my-model", "dim": 768, "training": "self-supervised", "in_paper": False, "licence": "MIT",
        "weights": "some-lab/some-model", "revision": "abc123", "embedding": "mean of the transformers model",
        "preprocessing": "the model's own", "added": True, "licence_source": None, "restrictions": "",
        "confirmed": "not yet confirmed",
    }  # fmt: skip
    (shown,) = cli("encoders", "show", "my-model", "--format", "json").rows
    assert shown.pop("confirmed") == "not yet confirmed"
    assert shown == records(connection)["my-model"]
    assert (shown["family"], shown["options"], shown["citation"]) == (
        "huggingface",
        {"pooling": "mean"},
        "Some Lab, 2026",
    )
    assert "Did you mean 'my-model'?" in cli("encode", "-e", "my-modl").err
    assert connection.execute("SELECT count(*) FROM cbir.encoder").fetchone() == (0,), "nothing is encoded yet"


@pytest.mark.parametrize(
    ("loader", "options", "family", "stored"),
    [
        ("hf", (), "huggingface", {}),
        ("timm", (), "timm_models", {}),
        ("open_clip", (), "openclip", {}),
        ("open_clip", ("--quick-gelu",), "openclip", {"quick_gelu": True}),
        ("hf", ("--interpolate-offset", 0.1), "huggingface", {"interpolate_offset": 0.1}),
        ("hf", ("--interpolate-offset", 0), "huggingface", {}),
    ],
)
def test_loader_sets_the_family_and_omitted_facts_stay_unknown(
    cli: Cli,
    connection: psycopg.Connection,
    loader: str,
    options: tuple[object, ...],
    family: str,
    stored: dict[str, Any],
) -> None:
    assert cli("encoders", "add", "new", "--loader", loader, "--weights", "lab/model", *options).code == 0
    spec = records(connection)["new"]
    assert (spec["family"], spec["options"], spec["dim"], spec["revision"]) == (family, stored, None, None)
    assert (spec["licence"], spec["training_scheme"], spec["in_paper"]) == ("unknown", "unknown", False)


def test_folder_of_weights_is_recorded_with_its_full_path(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lab" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, given in {"a": "lab/model", "b": "./lab/model", "c": tmp_path / "lab/model", "d": "~/lab/model"}.items():
        assert cli("encoders", "add", name, "--loader", "hf", "--weights", given).code == 0
        assert records(connection)[name]["weights"] == str(tmp_path / "lab" / "model")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("my-model", "An encoder named 'my-model' already exists."),
        ("my.model", "'my.model' would share the table embedding_my_model"),
        ("my_model", "'my_model' is not a valid encoder name"),
        ("MY.MODEL", "'MY.MODEL' is not a valid encoder name"),
    ],
)
def test_encoders_add_refuses_a_name_that_is_taken_or_invalid(
    cli: Cli, connection: psycopg.Connection, name: str, words: str
) -> None:
    cli(*ADD)
    before = records(connection)
    outcome = cli("encoders", "add", name, "--loader", "timm", "--weights", "other/model")
    assert (outcome.code, outcome.out) == (1, "")
    assert words in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert records(connection) == before


def test_encoders_add_refuses_a_name_that_shares_the_table_of_imported_embeddings(
    cli: Cli, connection: psycopg.Connection
) -> None:
    connection.execute(
        "INSERT INTO cbir.encoder (name, table_name, dim, precision, spec, provenance)"
        " VALUES ('my-model', 'embedding_my_model', 6, 'half', '{}', '{}')"
    )
    refused = cli("encoders", "add", "my.model", "--loader", "hf", "--weights", "a/b")
    assert refused.code == 1
    assert "share the table embedding_my_model" in refused.err
    assert cli(*ADD).code == 0, "its own name may get a record, to encode further images"


# --- drop ------------------------------------------------------------------------------------------------------------


def test_dropped_encoder_record_frees_its_name(cli: Cli, connection: psycopg.Connection) -> None:
    cli(*ADD)
    outcome = cli("encoders", "drop", "my-model", "--yes")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "Removed 0 embeddings of 'my-model' and its record.\n")
    assert records(connection) == {}
    assert "my-model" not in listed(cli)
    assert cli("encoders", "drop", "my-model", "--yes").code == 1
    assert cli(*ADD).code == 0


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1), ("\n", 1), ("", 130)])
def test_encoders_drop_asks_first_and_removes_only_after_a_yes(
    cli: Cli, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    cli(*ADD)
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    outcome = cli("encoders", "drop", "my-model")
    assert (outcome.code, outcome.out) == (code, "")
    assert "Remove 0 embeddings of 'my-model'" in outcome.err
    assert ("Nothing was removed." in outcome.err) == (code == 1)
    assert bool(records(connection)) == (code != 0)


def test_encoders_drop_of_a_shipped_encoder_removes_only_its_embeddings(
    cli: Cli, connection: psycopg.Connection, class_folder: Path
) -> None:
    cli("ingest", "folder", class_folder)
    cli("encode", "-e", "tiny-image")
    outcome = cli("encoders", "drop", "tiny-image", "--yes")
    assert (outcome.code, outcome.err) == (0, "Removed 20 embeddings of 'tiny-image'.\n")
    assert connection.execute("SELECT to_regclass('cbir.embedding_tiny_image')").fetchone() == (None,)
    assert "tiny-image" in listed(cli)
    refused = cli("encoders", "drop", "tiny-image", "--yes")
    assert refused.code == 1
    assert "There are no embeddings of 'tiny-image' in this database yet." in refused.err
    assert cli("encode", "-e", "tiny-image", "--format", "json").rows[0]["encoded"] == 20


# --- verify ----------------------------------------------------------------------------------------------------------


def checks(outcome: Outcome) -> dict[str, tuple[str, str]]:
    return {row["check"]: (row["expected"], row["ok"]) for row in outcome.rows}


def test_encoders_verify_compares_nothing_before_the_first_encode(cli: Cli, connection: psycopg.Connection) -> None:
    outcome = cli("encoders", "verify", "tiny-image", "--format", "json")
    nothing = ("nothing stored: the encoder has not run in this database yet", "not compared")
    assert (outcome.code, outcome.err) == (0, "")
    assert checks(outcome) == {"preprocessing": nothing, "golden embedding": nothing}
    assert connection.execute("SELECT count(*) FROM cbir.encoder").fetchone() == (0,), "looking changes nothing"


def test_encoders_verify_passes_an_unchanged_encoder_and_fails_a_changed_one(
    cli: Cli, connection: psycopg.Connection, class_folder: Path
) -> None:
    cli("ingest", "folder", class_folder)
    cli("encode", "-e", "tiny-image")
    outcome = cli("encoders", "verify", "tiny-image", "--format", "json")
    assert outcome.code == 0
    assert {check: ok for check, (_, ok) in checks(outcome).items()} == {
        "preprocessing": "ok",
        "golden embedding": "ok",
    }
    before = connection.execute("SELECT * FROM cbir.encoder").fetchall()
    connection.execute("UPDATE cbir.encoder SET preprocessing_sha256 = repeat('0', 64)")
    outcome = cli("encoders", "verify", "tiny-image", "--format", "json")
    assert outcome.code == 4
    assert checks(outcome)["preprocessing"] == ("0" * 64, "DIFFERS")
    assert checks(outcome)["golden embedding"][1] == "ok"
    connection.execute("UPDATE cbir.encoder SET preprocessing_sha256 = %s", [before[0][5]])


@pytest.mark.parametrize("command", ["show", "verify", "drop --yes", "fetch"])
def test_unknown_name_gives_one_sentence_with_the_nearest_known_name(cli: Cli, command: str) -> None:
    cli(*ADD)
    for name, nearest in {"my-modl": "my-model", "resnet5": "resnet50"}.items():
        outcome = cli("encoders", *command.split(), name)
        assert (outcome.code, outcome.out) == (1, "")
        assert f"Did you mean '{nearest}'?" in outcome.err
        assert len(outcome.err.splitlines()) == 1


def test_encoders_fetch_refuses_encoders_without_weights_to_download(cli: Cli, tmp_path: Path) -> None:
    cli("encoders", "add", "local", "--loader", "hf", "--weights", tmp_path)
    for name, words in {"tiny-image": "there is nothing to fetch", "local": "copy that"}.items():
        outcome = cli("encoders", "fetch", name, "--to", tmp_path / "to")
        assert (outcome.code, outcome.out) == (1, "")
        assert words in outcome.err
        assert len(outcome.err.splitlines()) == 1
