"""Makes one patient of two who turned out to be one person."""

from cbirdb.patients.merge import find_pairs, merge_patients

__all__ = ["find_pairs", "merge_patients"]
