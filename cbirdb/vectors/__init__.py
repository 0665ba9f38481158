"""Vectors in memory, without a database: normalise them, and find the nearest of many by matrix products."""
