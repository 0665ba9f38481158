"""Lets a package re-export its verb without importing it at once.

Other packages use parts of such a package without the verb, and its imports take time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy_exports(package: str, names: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a package that imports a name on first use (PEP 562).

    :param names: the exported names of each module of the package.
    """
    module_of = {name: module for module, given in names.items() for name in given}

    def __getattr__(name: str) -> Any:  # noqa: N807 (it becomes the package's)
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{module_of[name]}"), name)

    return __getattr__
