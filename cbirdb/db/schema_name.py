"""Names the two schemas. It is apart from the tables, so that using it does not import SQLAlchemy."""

SCHEMA = "cbir"
"""Tables, views, and the functions that people call."""
INTERNAL_SCHEMA = "cbir_internal"
"""Functions that only cbirdb itself calls."""
