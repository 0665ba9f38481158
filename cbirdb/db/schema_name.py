"""The name of the schema that everything lies in. Apart from the tables, so that SQLAlchemy is not imported for it."""

SCHEMA = "cbir"
