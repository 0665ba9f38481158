"""Erases patients from the database, with certificates, and keeps them from coming back."""

from cbirdb.erase.patients import erase_patients, find_pseudonyms, reapply_erasures

__all__ = ["erase_patients", "find_pseudonyms", "reapply_erasures"]
