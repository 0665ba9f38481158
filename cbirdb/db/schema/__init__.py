"""Schema ``cbir`` itself: its tables, the objects of ``sql/``, its roles, and how they are brought up to date."""
