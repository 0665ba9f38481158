"""Decodes and renders DICOM. Loads the decoders only once a file needs them."""

from cbirdb.pixels.dicom.decode import DecodedDicom, decode_dicom, forget
from cbirdb.pixels.dicom.file import FileBytes, is_dicom

__all__ = ["DecodedDicom", "FileBytes", "decode_dicom", "forget", "is_dicom"]
