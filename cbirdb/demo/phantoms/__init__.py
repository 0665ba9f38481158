"""Draws labelled pictures that look like radiology but show nobody, for the demo and the tests.

Since they are drawn, the demo needs no download, no licence and no patient. In one respect they are as hard as real
images: the whole picture gives away modality and region, while the finding is a small local change. A weak encoder
therefore scores well micro-averaged and worse macro-averaged.
"""

from cbirdb.demo.phantoms.writer import CLASSES, write_phantoms

__all__ = ["CLASSES", "write_phantoms"]
