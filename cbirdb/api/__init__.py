"""Use cbirdb from Python: one database, its verbs as methods, their results as typed rows."""

from cbirdb.api.arguments import DicomArguments, FilterArguments, QueryArguments
from cbirdb.api.database import Database, connect
from cbirdb.api.rows import PrecisionRow, Record, Rows, SimilarImage

__all__ = [
    "Database",
    "DicomArguments",
    "FilterArguments",
    "PrecisionRow",
    "QueryArguments",
    "Record",
    "Rows",
    "SimilarImage",
    "connect",
]
