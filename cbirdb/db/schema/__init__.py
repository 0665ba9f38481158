"""Manages schema ``cbir`` itself: its tables, the objects of ``sql/``, its roles, and its upgrades."""
