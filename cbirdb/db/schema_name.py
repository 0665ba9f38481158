"""Names the two schemas. Apart from the tables, so that SQLAlchemy is not imported for it."""

SCHEMA = "cbir"
"""Tables, views, and the functions that people call."""
INTERNAL_SCHEMA = "cbir_internal"
"""Functions that only cbirdb itself calls."""
