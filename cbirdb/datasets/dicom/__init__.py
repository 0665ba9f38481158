"""Reads DICOM: finds files by content, takes an allow-list from their headers, replaces what names a person."""

from cbirdb.datasets.dicom.privacy import hash_uid
from cbirdb.datasets.dicom.reader import DicomReader

__all__ = ["DicomReader", "hash_uid"]
