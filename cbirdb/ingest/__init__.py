"""Bring a dataset's files into the catalogue, or published embeddings into the embedding tables."""

from cbirdb.ingest.run import IngestSummary, ingest

__all__ = ["IngestSummary", "ingest"]
