"""Test that commands check everything before they ask for confirmation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.conftest import Logins, Outcome, command_line
from tests.support.stored_pictures import Picture, fill

Cli = Callable[..., Outcome]
COMMANDS = {
    "erase a patient": ("erase", "--patient", "p0"),
    "erase again": ("erase", "--reapply"),
    "drop a dataset": ("datasets", "drop", "one"),
    "drop an encoder": ("encoders", "drop", "toy"),
}


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the questions asked and answer each with no."""
    asked: list[str] = []

    def confirm(question: str, **_: object) -> bool:
        asked.append(question)
        return False

    monkeypatch.setattr("click.confirm", confirm)
    return asked


def store(connection: psycopg.Connection) -> None:
    fill(connection, np.eye(2, dtype=np.float32), [Picture(patient="p0"), Picture(patient="p1")])


@pytest.mark.parametrize("name", COMMANDS)
def test_answer_no_exits_with_code_1_and_removes_nothing(
    cli: Cli, connection: psycopg.Connection, answers: list[str], name: str
) -> None:
    store(connection)
    outcome = cli(*COMMANDS[name])
    assert (outcome.code, outcome.out, outcome.err) == (1, "", "Nothing was removed.\n")
    assert len(answers) == 1
    assert connection.execute("SELECT count(*) FROM cbir.embedding_toy").fetchone() == (2,)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("erase", "--patient", "p9"), "There is no patient with this pseudonym."),
        (("erase", "--patient", "p0", "--dataset", "two"), "no dataset named 'two'"),
        (("erase", "--patient-id", "1", "--pseudonym-key", "nowhere"), "no pseudonym key"),
        (("erase", "--patient", "p0", "--certificate", "/proc/erased.json"), "cannot be written"),
        (("erase", "--from-certificate", "nowhere.json"), "There is no file"),
        (("datasets", "drop", "two"), "no dataset named 'two'"),
        (("encoders", "drop", "toi"), "Did you mean 'toy'?"),
        (("encoders", "drop", "resnet50"), "no embeddings of 'resnet50'"),
    ],
)
def test_command_for_something_absent_fails_without_asking(
    cli: Cli, connection: psycopg.Connection, answers: list[str], arguments: tuple[str, ...], words: str
) -> None:
    store(connection)
    outcome = cli(*arguments)
    assert (outcome.code, outcome.out) == (1, "")
    assert words in outcome.err
    assert answers == []


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("who", ["reader", "ingest"])
def test_role_without_rights_is_refused_without_being_asked(
    role_database: str,
    logins: Logins,
    answers: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    who: str,
    name: str,
) -> None:
    with psycopg.connect(role_database, autocommit=True) as owner:
        store(owner)
    dsn = logins.dsn(who, str(conninfo_to_dict(role_database)["dbname"]))
    outcome = command_line(capsys)("--dsn", dsn, *COMMANDS[name])
    assert (outcome.code, outcome.out) == (3, "")
    assert "This role is not allowed to" in outcome.err
    assert answers == []


def test_erase_asks_again_for_a_patient_who_was_erased_before(
    cli: Cli, connection: psycopg.Connection, answers: list[str]
) -> None:
    store(connection)
    assert cli("erase", "--patient", "p0", "--yes").code == 0
    assert cli("erase", "--patient", "p0").code == 1
    assert answers == ["Erase this patient for good?"]
