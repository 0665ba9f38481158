"""Read what finished evaluations say: P@N, intervals, comparisons with the paper, further analyses."""

from cbirdb.metrics.precision import Run, latest_runs, metrics

__all__ = ["Run", "latest_runs", "metrics"]
