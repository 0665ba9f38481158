"""Computes the embeddings of all images that lack one."""

from typing import TYPE_CHECKING

from cbirdb.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from cbirdb.encode.run import EncodeOptions, encode
    from cbirdb.encode.write import EncodeSummary
else:
    # A search loads an encoder and needs nothing else from this package.
    __getattr__ = lazy_exports(__name__, {"run": ("EncodeOptions", "encode"), "write": ("EncodeSummary",)})

__all__ = ["EncodeOptions", "EncodeSummary", "encode"]
