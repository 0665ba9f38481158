"""Compute the embeddings of all images that lack one."""

from cbirdb.encode.run import EncodeOptions, encode
from cbirdb.encode.write import EncodeSummary

__all__ = ["EncodeOptions", "EncodeSummary", "encode"]
