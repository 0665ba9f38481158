"""Turns files into pictures. Never does a model's preprocessing."""

from cbirdb.pixels.damage import OnDamage, refuse
from cbirdb.pixels.picture import ReadPicture, read_picture
from cbirdb.pixels.raster import inspect_file, read_rgb
from cbirdb.pixels.rendering import Rendering

__all__ = ["OnDamage", "ReadPicture", "Rendering", "inspect_file", "read_picture", "read_rgb", "refuse"]
