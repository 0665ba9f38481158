"""Store the nearest neighbours of every query once; every metric is then a view over them."""

from cbirdb.evaluate.options import EvaluationOptions, Mode, Protocol
from cbirdb.evaluate.run import EvaluationSummary, evaluate

__all__ = ["EvaluationOptions", "EvaluationSummary", "Mode", "Protocol", "evaluate"]
