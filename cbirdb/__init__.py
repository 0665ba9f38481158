"""Content-based image retrieval for radiology, inside PostgreSQL.

``cbirdb.connect()`` gives a :class:`Database`; what is named in ``__all__`` is promised to stay.
"""

from typing import TYPE_CHECKING

from cbirdb.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from cbirdb.api import Database, PrecisionRow, Record, Rows, SimilarImage, connect
    from cbirdb.encode import EncodeSummary
    from cbirdb.errors import (
        CbirdbError,
        DatabaseError,
        EncoderError,
        InputError,
        OptionError,
        SchemaError,
        UnknownNameError,
    )
    from cbirdb.evaluate import EvaluationOptions, EvaluationSummary
    from cbirdb.index import Floor
    from cbirdb.ingest import IngestSummary
    from cbirdb.progress import Progress
    from cbirdb.version import __version__
else:
    # The command line imports this package, too, and answers --help without a database driver or NumPy.
    __getattr__ = lazy_exports(
        __name__,
        {
            "api": ("Database", "PrecisionRow", "Record", "Rows", "SimilarImage", "connect"),
            "encode": ("EncodeSummary",),
            "errors": (
                "CbirdbError",
                "DatabaseError",
                "EncoderError",
                "InputError",
                "OptionError",
                "SchemaError",
                "UnknownNameError",
            ),
            "evaluate": ("EvaluationOptions", "EvaluationSummary"),
            "index": ("Floor",),
            "ingest": ("IngestSummary",),
            "progress": ("Progress",),
            "version": ("__version__",),
        },
    )

__all__ = [
    "CbirdbError",
    "Database",
    "DatabaseError",
    "EncodeSummary",
    "EncoderError",
    "EvaluationOptions",
    "EvaluationSummary",
    "Floor",
    "IngestSummary",
    "InputError",
    "OptionError",
    "PrecisionRow",
    "Progress",
    "Record",
    "Rows",
    "SchemaError",
    "SimilarImage",
    "UnknownNameError",
    "__version__",
    "connect",
]
