"""Fits linear probes: logistic regressions on frozen embeddings, whose figures are views over their predictions."""

from cbirdb.classify.options import LinearOptions
from cbirdb.classify.run import LinearSummary, classify_linear

__all__ = ["LinearOptions", "LinearSummary", "classify_linear"]
