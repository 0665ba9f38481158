"""Build the vector index of an encoder: choose its method, tune how wide it is searched, audit what it finds."""

from typing import TYPE_CHECKING

from cbirdb.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from cbirdb.index.audit import Floor, audit_index
    from cbirdb.index.build import build_chosen, build_index, drop_index
    from cbirdb.index.choose import Aim, Choice, choose_method
else:
    # The command line takes the names of methods from here, and no NumPy with them.
    __getattr__ = lazy_exports(
        __name__,
        {
            "audit": ("Floor", "audit_index"),
            "build": ("build_chosen", "build_index", "drop_index"),
            "choose": ("Aim", "Choice", "choose_method"),
        },
    )

__all__ = ["Aim", "Choice", "Floor", "audit_index", "build_chosen", "build_index", "choose_method", "drop_index"]
