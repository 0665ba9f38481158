"""Make single faults for ``make mutants`` in code, not in text for people, and find the tests that touch them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.mutants.__main__ import ROOT, drawn
from tests.mutants.edits import edits, python_edits, sql_edits
from tests.mutants.touching import Touching

SQL = """\
-- Title: Nothing here < that
SELECT coalesce(a.n, 0), a.name
FROM a LEFT JOIN b ON b.id = a.id AND b.gone IS NOT TRUE
WHERE
    a.n <= 5
    AND (a.kind IS NULL OR NOT a.old)
ORDER BY a.n DESC, a.id;
COMMENT ON VIEW a IS
'More than 5 AND less';
"""

PYTHON = '''\
"""Docs of 5 and more."""
def f(a: int = 1) -> bool:
    """And more."""
    if not a < 2 and a is not None:
        return max(a, 3) == a + 4
    return run("SELECT n FROM a WHERE n > 7")
'''


@pytest.fixture(scope="module")
def touching() -> Touching:
    return Touching(ROOT)


def results(text: str, language: str) -> set[str]:
    """Return the changed lines that the edits make."""
    made = python_edits("a.py", text) if language == "python" else sql_edits("a.sql", text)
    return {
        " ".join(line.split())
        for edit in made
        for old, line in zip(text.splitlines(), edit.apply(text).splitlines(), strict=True)
        if line != old
    }


def test_sql_edits_change_comparisons_constants_joins_conditions_and_order() -> None:
    assert results(SQL, "sql") == {
        "SELECT a.n, a.name", "SELECT coalesce(a.n, 1), a.name",
        "FROM a INNER JOIN b ON b.id = a.id AND b.gone IS NOT TRUE",
        "FROM a LEFT JOIN b ON b.id <> a.id AND b.gone IS NOT TRUE",
        "FROM a LEFT JOIN b ON b.id = a.id OR b.gone IS NOT TRUE",
        "FROM a LEFT JOIN b ON b.id = a.id AND b.gone IS FALSE",
        "a.n < 5", "a.n <= 6", "OR (a.kind IS NULL OR NOT a.old)", "AND (a.kind IS NOT NULL OR NOT a.old)",
        "AND (a.kind IS NULL AND NOT a.old)", "AND (a.kind IS NULL OR a.old)", "",
        "ORDER BY a.n, a.id;", "ORDER BY a.n DESC;",
    }  # fmt: skip


def test_python_edits_change_comparisons_constants_conditions_and_results() -> None:
    test = "not a < 2 and a is not None"
    assert results(PYTHON, "python") == {
        "def f(a: int = 2) -> bool:",
        "if a < 2 and a is not None:", "if not a <= 2 and a is not None:", "if not a < 3 and a is not None:",
        "if not a < 2 or a is not None:", "if not a < 2 and a is None:", f"if (not ({test})):",
        "return min(a, 3) == a + 4", "return max(a, 4) == a + 4", "return max(a, 3) != a + 4",
        "return max(a, 3) == a - 4", "return max(a, 3) == a + 5", "return None",
        'return run("SELECT n FROM a WHERE n >= 7")', 'return run("SELECT n FROM a WHERE n > 8")',
    }  # fmt: skip


def test_edits_of_this_projects_python_can_be_parsed() -> None:
    found = edits(ROOT)
    assert len(found["sql"]) > 1000
    assert len(found["python"]) > 3000
    texts = {one.path: (ROOT / one.path).read_text() for one in found["python"]}
    for one in found["python"][::7]:
        changed = one.apply(texts[one.path])
        assert changed != texts[one.path]
        ast.parse(changed)


def test_same_seed_draws_same_sample_and_a_larger_sample_begins_with_it() -> None:
    small, large = (drawn(3, sample, "") for sample in (6, 10))
    assert large[:6] == small == drawn(3, 6, "")
    assert [Path(one.path).suffix for one in small] == [".sql", ".py"] * 3
    assert drawn(4, 6, "") != small
    assert {one.path for one in drawn(3, 6, "leaking_image")} == {"sql/metrics/leaking_image.sql"}


@pytest.mark.parametrize(
    ("path", "test"),
    [
        ("sql/metrics/leaking_image.sql", "tests/sql/test_leakage.py"),
        ("sql/search/nearest_image.sql", "tests/sql/test_similar_images.py"),
        ("sql/evaluation/padded.sql", "tests/sql/test_precision.py"),
        ("cbirdb/metrics/bootstrap.py", "tests/unit/test_bootstrap.py"),
        ("cbirdb/ingest/inspect_files.py", "tests/integration/test_ingest.py"),
        ("cbirdb/encoders/openclip.py", "tests/unit/test_paper_encoders.py"),
    ],
)
def test_tests_that_touch_a_file_include_its_own_tests(touching: Touching, path: str, test: str) -> None:
    assert test in touching.of(path)
