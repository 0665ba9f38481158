"""The docs site: every page can be reached, and the reference has every command and SQL object that users call."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import click
import pytest

from cbirdb.cli.main import COMMANDS, cbirdb

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SQL = ROOT / "sql"


@pytest.fixture
def sql_reference(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(DOCS / "_extensions"))
    return import_module("sql_reference")


@pytest.fixture
def command_reference(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(DOCS / "_extensions"))
    return import_module("command_reference")


@pytest.fixture
def repository_files(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(DOCS / "_extensions"))
    return import_module("repository_files")


def listed_pages(page: Path) -> set[Path]:
    """Pages that the toctrees of a page list, directly or through others."""
    found: set[Path] = set()
    for tree in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), re.DOTALL):
        for line in tree.splitlines():
            if line and not line.startswith(":"):
                name = re.sub(r".*<(.+)>", r"\1", line)
                found.update(page.parent.glob(f"{name}.md"))
    return found | {inner for child in found for inner in listed_pages(child)}


def test_every_page_is_reached_from_the_index() -> None:
    # The pages "searching" and "decisions" show these files.
    shown_elsewhere = {DOCS / "search.md", DOCS / "decisions" / "README.md"}
    pages = {path for path in DOCS.rglob("*.md") if "_build" not in path.parts} - shown_elsewhere
    assert listed_pages(DOCS / "index.md") | {DOCS / "index.md"} == pages


def test_every_page_that_shows_a_file_has_one_to_show(repository_files: ModuleType) -> None:
    for page, name in repository_files.PAGES.items():
        assert (ROOT / name).is_file()
        assert f"]({'../' * (page.count('/'))}" in (DOCS / f"{page}.md").read_text()


@pytest.mark.parametrize(
    ("written", "on_site"),
    [
        ("[changes](../CHANGELOG.md)", "[changes](project/changelog.md)"),
        ("[figures](../benchmarks/RESULTS.md#results)", "[figures](project/measurements.md#results)"),
        ("[search](search.md)", "[search](searching.md)"),
        ("[decided](decisions/README.md)", "[decided](decisions.md)"),
        ("[sql](../sql/)", "[sql](project/sql-files.md)"),
        ("[tests](../tests/)", "tests"),
        ("[sizes](../benchmarks/sizing.json)", "[sizes](../benchmarks/sizing.json)"),
        ("[gone](gone.md)", "[gone](gone.md)"),
        ("[web](https://arxiv.org/abs/2403.06567)", "[web](https://arxiv.org/abs/2403.06567)"),
    ],
)
def test_link_leads_to_the_page_that_shows_the_file(repository_files: ModuleType, written: str, on_site: str) -> None:
    assert repository_files.LINK.sub(lambda found: repository_files._link(found, DOCS, DOCS), written) == on_site


def commands(command: click.Command, path: str) -> list[tuple[str, click.Command]]:
    found = [(path, command)]
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            found.extend(commands(child, f"{path} {name}"))
    return found


def test_reference_describes_every_command_with_every_option(command_reference: ModuleType) -> None:
    text = (DOCS / "reference" / "commands.md").read_text()
    (names,) = command_reference.MARK.findall(text)
    assert names.split() == ["cbirdb", *COMMANDS]
    page = command_reference.page(names.split())
    sections = dict(re.findall(r"^#+ `([a-z -]+)`\n(.*?)(?=^#|\Z)", page, re.MULTILINE | re.DOTALL))
    for path, command in commands(cbirdb, "cbirdb"):
        for option in command.params:
            if isinstance(option, click.Option):
                assert all(name in sections[path] for name in option.opts), (path, option.name)


def test_option_stands_beside_its_environment_variable(command_reference: ModuleType) -> None:
    page = command_reference.page(["encode"])
    assert "`--device auto|cuda|cuda:N|cpu` — `CBIRDB_ENCODE_DEVICE`\n: auto: " in page


def shown(page: str) -> set[str]:
    return set(re.findall(r"^### `cbir\.(\w+)`$", page, re.MULTILINE))


def page_of(sql_reference: ModuleType, name: str) -> str:
    (audiences,) = sql_reference.MARK.findall((DOCS / "reference" / name).read_text())
    return sql_reference.page(audiences.split())


def functions_for(audience: str) -> set[str]:
    """Functions of schema cbir that an audience calls; what is in cbir_internal only commands and functions call."""
    (path,) = SQL.rglob("function_audience.sql")
    named = re.findall(r"\('(\w+)', '(\w+)'\)", path.read_text())
    made = "\n".join(file.read_text() for file in SQL.glob("*/*.sql"))
    return {name for name, called_by in named if called_by == audience and f"FUNCTION cbir.{name}(" in made}


def test_reference_for_readers_has_their_functions_and_all_views(sql_reference: ModuleType) -> None:
    views = {path.stem for path in SQL.rglob("*.sql") if "CREATE VIEW cbir." in path.read_text()}
    assert len(views) > 20
    assert shown(page_of(sql_reference, "sql.md")) == functions_for("reader") | views - {"returned_patient"}


def test_reference_for_administration_has_what_administrators_call(sql_reference: ModuleType) -> None:
    called = functions_for("admin")
    assert "erase_patient" in called
    assert shown(page_of(sql_reference, "sql-administration.md")) == called | {"returned_patient"}


def test_every_object_of_the_reference_has_its_comment(sql_reference: ModuleType) -> None:
    assert [made.name for made in sql_reference.objects() if not made.comment] == []


def test_entry_of_a_function_has_signature_example_and_columns(sql_reference: ModuleType) -> None:
    page = page_of(sql_reference, "sql.md")
    entry = page.partition("### `cbir.find_image`")[2].partition("\n### ")[0]
    assert "cbir.find_image(\n    sop_uid text DEFAULT NULL,\n" in entry
    assert "```sql\nSELECT * FROM cbir.find_image(sop_uid => '1.2.840.1');\n```" in entry
    assert "**Columns:** `image_id` bigint, `dataset` text" in entry


def test_columns_of_a_view_are_those_of_its_outer_select(sql_reference: ModuleType) -> None:
    body = """ AS -- a, comment FROM here
    WITH inner_one AS (SELECT hidden FROM t)
    SELECT a.first, count(*) FILTER (WHERE x IN (1, 2)) AS second, 'x, FROM y' AS third
    FROM inner_one AS a UNION ALL SELECT other FROM u"""
    assert sql_reference.view_columns(body) == ["first", "second", "third"]


def test_columns_of_a_view_of_all_columns_are_not_guessed(sql_reference: ModuleType) -> None:
    assert sql_reference.view_columns(" AS SELECT a.*, 1 AS b FROM t AS a") == []


@pytest.mark.slow
def test_docs_build_without_a_warning(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", "-b", "html", "-d", tmp_path / "trees"]
    done = subprocess.run([*build, DOCS, tmp_path / "site"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "cbir.similar_images" in (tmp_path / "site" / "reference" / "sql.html").read_text()
