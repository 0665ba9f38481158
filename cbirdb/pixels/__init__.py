"""File -> picture. Never a model's preprocessing."""

from cbirdb.pixels.raster import inspect_file, read_rgb

__all__ = ["inspect_file", "read_rgb"]
