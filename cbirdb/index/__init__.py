"""Build the vector index of an encoder: choose its method, tune how wide it is searched, audit what it finds."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cbirdb.index.audit import Floor, audit_index
    from cbirdb.index.build import build_chosen, build_index, drop_index
    from cbirdb.index.choose import Aim, Choice, choose_method

__all__ = ["Aim", "Choice", "Floor", "audit_index", "build_chosen", "build_index", "choose_method", "drop_index"]

_MODULES = {
    "Aim": "choose",
    "Choice": "choose",
    "Floor": "audit",
    "audit_index": "audit",
    "build_chosen": "build",
    "build_index": "build",
    "choose_method": "choose",
    "drop_index": "build",
}


def __getattr__(name: str) -> Any:
    """Import a verb when it is first asked for: the command line needs ``methods`` at once, and no NumPy with it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
