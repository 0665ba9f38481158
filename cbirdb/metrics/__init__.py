"""Reads the results of finished evaluations: P@N, intervals, comparisons with the paper, further analyses."""

from cbirdb.metrics.precision import Run, latest_runs, metrics

__all__ = ["Run", "latest_runs", "metrics"]
