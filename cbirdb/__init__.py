"""Provide content-based image retrieval for radiology, inside PostgreSQL."""

from importlib.metadata import version

__version__ = version("cbirdb")
