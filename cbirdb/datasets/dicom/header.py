"""Reads the header of a DICOM file: which tags are taken, and how a file's encoding is found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from cbirdb.datasets.dicom import tags
from cbirdb.datasets.dicom.files import Inflated, Stream
from cbirdb.datasets.dicom.values import is_uid, text
from cbirdb.pixels.dicom.elements import EXPLICIT, Elements, Encoding, ReadAt, Window, damaged, encoding_of, walk
from cbirdb.pixels.sop_classes import excluded_sop_class

LAST_META, LAST_IMAGE, LAST_LATER = 0x0002FFFF, 0x0028FFFF, 0x7FDFFFFF

DEFLATED = "1.2.840.10008.1.2.1.99"
REGISTERED = b"1.2.840.10008."
"""Beginning of the standard's UIDs, among them those of SOP classes."""
LONGEST_FIRST_VALUE = 128
WITH_VIEWS = frozenset((b"MG", b"DX", b"CR"))
Beginning: TypeAlias = tuple[Elements, Window, int, Encoding]
"""The file's own header, and where and how its data set begins."""


@dataclass(frozen=True, slots=True)
class Header:
    """Values of a file's header."""

    meta: Elements
    elements: Elements
    encoding: Encoding

    def value(self, tag: int) -> bytes | None:
        """Return the value of an element that is no sequence; None if it is absent."""
        found = self.elements.get(tag)
        return found if isinstance(found, bytes) else None

    def items(self, tag: int) -> list[Elements]:
        """Return the items of a sequence; none if it is absent."""
        return items_of(self.elements, tag)

    @property
    def sop_class(self) -> str:
        """Return the SOP class, else the one of the file's own header; empty if both are absent."""
        media = self.meta.get(tags.MEDIA_SOP_CLASS)
        return text(self.value(tags.SOP_CLASS)) or text(media if isinstance(media, bytes) else None)

    @property
    def sop_instance(self) -> bytes | None:
        """Return the SOP instance UID, else the one of the file's own header."""
        media = self.meta.get(tags.MEDIA_SOP_INSTANCE)
        return self.value(tags.SOP_INSTANCE) or (media if isinstance(media, bytes) else None)

    @property
    def transfer_syntax(self) -> str | None:
        """Return the transfer syntax UID; None if it is absent or no UID."""
        stated = self.meta.get(tags.TRANSFER_SYNTAX)
        found = text(stated if isinstance(stated, bytes) else None)
        return found if is_uid(found) else None


def items_of(elements: Elements, tag: int) -> list[Elements]:
    """Return the items of a sequence; none if it is absent."""
    found = elements.get(tag)
    return found if isinstance(found, list) else []


def read_header(read_at: ReadAt) -> Header | None:
    """Read the header of a file; None if it is no DICOM file.

    :raises PixelError: when it is one, and damaged.
    """
    began = _begin(read_at)
    if began is None:
        return None
    meta, window, position, encoding = began
    elements, position = walk(window, position, None, encoding, tags.IMAGE, last=LAST_IMAGE)
    header = Header(meta, elements, encoding)
    if excluded_sop_class(header.sop_class) is None and _continues(header):
        later, _ = walk(window, position, None, encoding, {**tags.IMAGE, **tags.LATER}, last=LAST_LATER)
        elements.update(later)
    return header


def _continues(header: Header) -> bool:
    """Return True if more is to be read: of several frames, a view, or what a careless writer has put out of order."""
    lacks_view = not header.value(tags.VIEW_POSITION) and header.value(tags.MODALITY) in WITH_VIEWS
    return bool(header.value(tags.FRAMES)) or lacks_view or any(tag not in header.elements for tag in tags.REQUIRED)


def read_directory(read_at: ReadAt) -> list[list[str]] | None:
    """Return the files that a DICOMDIR names, as folders and a name; None if the file is no DICOMDIR.

    :raises PixelError: when it is damaged.
    """
    began = _begin(read_at)
    if began is None:
        return None
    _, window, position, encoding = began
    elements, _ = walk(window, position, None, encoding, {tags.DIRECTORY: {tags.FILE_ID: None}}, last=tags.DIRECTORY)
    if tags.DIRECTORY not in elements:
        return None
    found = []
    for record in items_of(elements, tags.DIRECTORY):
        value = record.get(tags.FILE_ID)
        if isinstance(value, bytes) and text(value):
            found.append([part.strip(" \0") for part in value.decode("utf-8", "surrogateescape").split("\\")])
    return found


def _begin(read_at: ReadAt) -> Beginning | None:
    """Find the data set of a file; None if the file is no DICOM file.

    :raises PixelError: when it is one, and damaged.
    """
    window = Window(read_at)
    marked = window.data[128:132] == b"DICM"
    position = 132 if marked else 0
    if not marked and not _plausible(window.data):
        return None
    meta: Elements = {}
    if window.data[position : position + 2] == b"\2\0":
        meta, position = walk(window, position, None, EXPLICIT, tags.META, last=LAST_META)
    stated = meta.get(tags.TRANSFER_SYNTAX)
    if isinstance(stated, bytes) and text(stated) == DEFLATED:
        window, position = Window(Stream(Inflated(read_at, position)).read_at), 0
    offset = window.at(position, 8)
    if offset < 0:
        raise damaged("the file ends before its data set")
    return meta, window, position, encoding_of(window.data[offset : offset + 6])


def _plausible(data: bytes) -> bool:
    """Return True if a file without the mark of DICOM begins as a DICOM file does: with group 2 or 8, and a UID soon."""
    if data[:2] not in {b"\2\0", b"\10\0", b"\0\10"} or REGISTERED not in data:
        return False
    order: Literal["big", "little"] = "big" if data[:1] == b"\0" else "little"
    explicit = data[4:6].isalpha() and data[4:6].isupper()
    return int.from_bytes(data[2:4], order) <= 0x18 and (
        explicit or int.from_bytes(data[4:8], "little") <= LONGEST_FIRST_VALUE
    )
