"""Let the reference of the Python API show names where they are promised.

Packages import some of their names when they are first asked for, which autodoc does not do; and a signature names the module
that a class is written in, not the package that promises it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

PACKAGES = (
    "cbirdb",
    "cbirdb.ingest",
    "cbirdb.encode",
    "cbirdb.index",
    "cbirdb.search",
    "cbirdb.evaluate",
    "cbirdb.metrics",
    "cbirdb.erase",
)


def _import(app: Any) -> None:
    del app
    for package in map(import_module, PACKAGES):
        for name in getattr(package, "__all__", ()):
            setattr(package, name, getattr(package, name))


def _find(app: Any, env: Any, node: Any, text: Any) -> Any:
    """Find a class by the package that promises it, where a signature names the module that it is written in."""
    target = node.get("reftarget", "")
    inner, _, name = target.rpartition(".")
    for package in PACKAGES:
        if inner.startswith(package) and name in getattr(import_module(package), "__all__", ()):
            domain = env.get_domain("py")
            found = domain.objects.get(f"{package}.{name}")
            if found and package != inner:
                from sphinx.util.nodes import make_refnode

                return make_refnode(app.builder, node["refdoc"], found.docname, found.node_id, text)
    return None


def setup(app: Any) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.connect("builder-inited", _import)
    app.connect("missing-reference", _find)
    return {"parallel_read_safe": True}
