"""Erase patients from the database, with certificates, and keep them from coming back."""

from cbirdb.erase.patients import erase_patients, people_of_id, reapply_erasures

__all__ = ["erase_patients", "people_of_id", "reapply_erasures"]
