"""Runs the whole pipeline on generated phantoms."""

from cbirdb.demo.run import DemoResult, demo

__all__ = ["DemoResult", "demo"]
