"""Labelled pictures that look like radiology but show nobody: for the demo and the tests.

Drawn, not downloaded, so that the demo needs no network, no licence and no patient. They are as hard as the real
thing in one respect: the picture as a whole gives away modality and region, while the finding is a small local
change. A weak encoder therefore scores well micro-averaged and worse macro-averaged.
"""

from cbirdb.demo.phantoms.writer import CLASSES, write_phantoms

__all__ = ["CLASSES", "write_phantoms"]
