"""Show files of the repository on pages of the site, and lead links to them to the right place.

The Markdown links as a code host expects it (``../CHANGELOG.md``). On the site such a link leads to the page that shows the
file, else to a copy of the file; a link to a folder becomes plain text.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
PAGES = {
    "searching": "docs/search.md",
    "decisions": "docs/decisions/README.md",
    "project/readme": "README.md",
    "project/changelog": "CHANGELOG.md",
    "project/contributing": "CONTRIBUTING.md",
    "project/code-of-conduct": "CODE_OF_CONDUCT.md",
    "project/security-policy": "SECURITY.md",
    "project/measurements": "benchmarks/RESULTS.md",
    "project/sql-files": "sql/README.md",
    "project/frozen-references": "tests/frozen/README.md",
}
"""Pages that show a file in place of their own text, which is for readers on a code host."""
TOCTREE = re.compile(r"```\{toctree\}\n.*?```\n", re.DOTALL)
LINK = re.compile(r"(?<!\\)(?P<text>!?\[(?:[^\[\]]|\[[^\]]*\])*\])\((?P<path>[^)\s:#]+)(?P<anchor>#[^)\s]*)?\)")


def _read(app: Any, docname: str, source: list[str]) -> None:
    here = DOCS / f"{docname}.md"
    shown = ROOT / PAGES[docname] if docname in PAGES else here
    if shown != here:
        app.env.note_dependency(str(shown), docname=docname)
        source[0] = "\n".join([shown.read_text(), *TOCTREE.findall(source[0])])
    source[0] = LINK.sub(lambda found: _link(found, shown.parent, here.parent), source[0])


def _link(found: re.Match[str], written_in: Path, read_in: Path) -> str:
    """Return a link that is right on the site, for one that is right beside the file that it was written in."""
    target = (written_in / found["path"]).resolve()
    if not target.exists() or not target.is_relative_to(ROOT):
        return found[0]  # Sphinx warns of it
    if (target / "README.md").exists():
        target /= "README.md"
    if target.is_dir():
        return found["text"][1:-1]
    pages = {ROOT / name: DOCS / f"{page}.md" for page, name in PAGES.items()}
    place = os.path.relpath(pages.get(target, target), read_in)
    return f"{found['text']}({place}{found['anchor'] or ''})"


def setup(app: Any) -> dict[str, bool]:
    """Connect to Sphinx, before what fills marks on pages."""
    app.connect("source-read", _read, priority=400)
    return {"parallel_read_safe": True}
