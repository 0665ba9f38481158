"""Let a package re-export its verb without importing it at once, where its parts are used without the verb."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy_exports(package: str, names: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a package that imports a name when it is first asked for (PEP 562).

    :param names: those that each of its modules gives.
    """
    module_of = {name: module for module, given in names.items() for name in given}

    def __getattr__(name: str) -> Any:  # noqa: N807 (it becomes the package's)
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{module_of[name]}"), name)

    return __getattr__
