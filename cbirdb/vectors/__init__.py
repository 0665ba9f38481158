"""Handles vectors in memory, without a database: normalises them, and finds nearest neighbours by matrix products."""
