"""Sphinx reads this to build the docs: ``make docs``."""

import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_extensions")]

about = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
project = about["name"]
release = version = about["version"]
author = "the cbirdb developers"
project_copyright = author

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "repository_files",
    "command_reference",
    "sql_reference",
    "promised_names",
]
# Sphinx has a page of its own named "search"; "searching" shows the file, and "decisions"
# that of its folder (see repository_files).
exclude_patterns = ["_build", "search.md", "decisions/README.md"]
nitpicky = True
# Offline nothing outside of cbirdb can be looked up; and signatures name classes that no page describes.
nitpick_ignore_regex = [("py:.*", r"(?!cbirdb\b).*"), ("py:(class|obj)", ".*")]

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "deflist"]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
maximum_signature_line_length = 90

html_theme = "furo"
html_title = f"cbirdb {release}"
html_copy_source = False
html_show_sphinx = False
