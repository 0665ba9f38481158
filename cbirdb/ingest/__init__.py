"""Bring a dataset's files into the catalogue, or published embeddings into the embedding tables."""

from typing import TYPE_CHECKING

from cbirdb.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from cbirdb.ingest.embeddings import ImportSummary, import_embeddings
    from cbirdb.ingest.run import ingest
    from cbirdb.ingest.summary import IngestSummary
else:
    # Worker processes look at files and need no database driver; only embeddings need h5py.
    __getattr__ = lazy_exports(
        __name__,
        {"embeddings": ("ImportSummary", "import_embeddings"), "run": ("ingest",), "summary": ("IngestSummary",)},
    )

__all__ = ["ImportSummary", "IngestSummary", "import_embeddings", "ingest"]
