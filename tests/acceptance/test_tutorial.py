"""docs/tutorial.ipynb runs as it stands, gives what is stored in it, and shows nobody's data or folders."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "tutorial.ipynb"


@pytest.fixture(scope="module")
def stored() -> Any:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    return notebook


def shown(notebook: Any) -> list[tuple[str, list[str]]]:
    """Each code cell with what it prints and returns, in words; not with what root is told on stderr."""
    return [
        (cell.source, [said(output) for output in cell.outputs if output.get("name") != "stderr"])
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def said(output: Any) -> str:
    return str(output.get("text") or output.get("data", {}).get("text/plain", ""))


@pytest.mark.slow
def test_tutorial_runs_and_gives_what_is_stored_in_it(stored: Any, tmp_path: Path) -> None:
    notebook = copy.deepcopy(stored)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    assert shown(notebook) == shown(stored)


def test_every_cell_of_the_tutorial_was_run_in_order_without_an_error(stored: Any) -> None:
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert [output for cell in code for output in cell.outputs if output.output_type == "error"] == []
    assert [output.name for cell in code for output in cell.outputs if output.output_type == "stream"] == ["stdout"] * 2


def test_tutorial_shows_a_contact_sheet(stored: Any) -> None:
    pictures = [
        output for cell in stored.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 1


def test_tutorial_holds_no_folder_and_no_patient(stored: Any) -> None:
    text = NOTEBOOK.read_text()
    assert not re.search(r"/(tmp|home|root|work|var|Users)/|[A-Z]:\\", text)
    # Pseudonyms and hashes are long hexadecimal numbers; pictures are base64, which has other letters, too.
    assert not re.search(r"\b[0-9a-f]{32,}\b", text)
    assert not re.search(r"pseudonym|patient_id|PatientName|birth", text, re.IGNORECASE)
    assert {key for cell in stored.cells for key in cell.metadata} <= {"execution"}
