"""Turns files into pictures. Never does a model's preprocessing."""

from cbirdb.pixels.damage import OnDamage, refuse
from cbirdb.pixels.raster import inspect_file, read_rgb

__all__ = ["OnDamage", "inspect_file", "read_rgb", "refuse"]
