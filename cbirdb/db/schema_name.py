"""Names the schema of all objects. It is apart from the tables, so that using it does not import SQLAlchemy."""

SCHEMA = "cbir"
