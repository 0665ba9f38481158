"""Store the nearest neighbours of every query once; every metric is then a view over them."""

from cbirdb.evaluate.run import EvaluationSummary, Mode, Protocol, evaluate

__all__ = ["EvaluationSummary", "Mode", "Protocol", "evaluate"]
