"""Small DICOM files of every kind, written with pydicom and with encoders that cbirdb does not decode with."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")

from pydicom import uid  # noqa: E402
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.sequence import Sequence  # noqa: E402

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
Pixels = NDArray[Any]


def item(**attributes: Any) -> Dataset:
    """An item of a sequence, or any other set of attributes."""
    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def sequence(**attributes: Any) -> Sequence:
    """A sequence of one item."""
    return Sequence([item(**attributes)])


def lut(entries: list[int], *, first: int = 0, bits: int = 16, vr: str = "US") -> Sequence:
    """A sequence with one lookup table for grey values."""
    made = Dataset()
    made.add_new("LUTDescriptor", vr, [len(entries), first, bits])
    made.add_new("LUTData", "OW", np.array(entries, "<u2").tobytes())
    return Sequence([made])


def image(pixels: Pixels, **attributes: Any) -> Dataset:
    """A data set of one frame: (rows, columns) or (rows, columns, 3); or of frames: a list of such, as an array."""
    frames = attributes.pop("frames", None)
    shape = pixels.shape[1:] if frames else pixels.shape
    samples = shape[2] if len(shape) == 3 else 1
    bits = attributes.get("BitsAllocated", pixels.dtype.itemsize * 8)
    stored = attributes.get("BitsStored", bits)
    made = item(
        SOPClassUID=SECONDARY_CAPTURE,
        SOPInstanceUID="2.25.1",
        Modality="OT",
        SamplesPerPixel=samples,
        PhotometricInterpretation="MONOCHROME2" if samples == 1 else "RGB",
        Rows=shape[0],
        Columns=shape[1],
        BitsAllocated=bits,
        BitsStored=stored,
        HighBit=stored - 1,
        PixelRepresentation=int(pixels.dtype.kind == "i"),
    )
    if samples > 1:
        made.PlanarConfiguration = 0
    if frames:
        made.NumberOfFrames = len(pixels)
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def encoded(made: Dataset, syntax: str, *, meta: bool = True, stated: str | None = None) -> bytes:
    """The bytes of a file in an uncompressed syntax or one whose pixels are already encapsulated.

    :param stated: the transfer syntax that the header names, where it is a wrong one.
    """
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID = made.get("SOPClassUID", SECONDARY_CAPTURE)
    made.file_meta.MediaStorageSOPInstanceUID = "2.25.1"
    buffer = io.BytesIO()
    implicit = syntax == uid.ImplicitVRLittleEndian
    if meta:
        made.save_as(buffer, enforce_file_format=True)
    else:
        pydicom.filewriter.write_dataset(
            _raw(buffer, implicit=implicit, little=syntax != uid.ExplicitVRBigEndian), made
        )
    data = buffer.getvalue()
    if stated:
        at = data.index(str(syntax).encode() + (b"\0" if len(syntax) % 2 else b""))
        length = len(syntax) + len(syntax) % 2
        assert len(stated) <= length
        data = data[:at] + stated.encode().ljust(length, b"\0") + data[at + length :]
    return data


def _raw(buffer: io.BytesIO, *, implicit: bool, little: bool) -> Any:
    file = pydicom.filebase.DicomFileLike(buffer)
    file.is_implicit_VR, file.is_little_endian = implicit, little
    return file


def native(pixels: Pixels, syntax: str = uid.ExplicitVRLittleEndian, *, meta: bool = True, **attributes: Any) -> bytes:
    """A file with uncompressed pixels."""
    planar = attributes.get("PlanarConfiguration") == 1
    made = image(pixels, **attributes)
    big = syntax == uid.ExplicitVRBigEndian
    stored = np.moveaxis(pixels, -1, -3) if planar else pixels
    data = np.ascontiguousarray(stored).astype(stored.dtype.newbyteorder(">" if big else "<")).tobytes()
    vr = "OB" if made.BitsAllocated <= 8 and syntax != uid.ImplicitVRLittleEndian else "OW"
    made.add_new("PixelData", vr, data + b"\0" * (len(data) % 2))
    return encoded(made, syntax, meta=meta)


def with_value(
    pixels: Pixels, value: bytes, *, vr: str = "OW", syntax: str = uid.ExplicitVRLittleEndian, **attributes: Any
) -> bytes:
    """A file whose pixel data are given bytes; the array only gives the shape."""
    made = image(pixels, **attributes)
    made.add_new("PixelData", vr, value)
    return encoded(made, syntax)


def compressed(
    pixels: Pixels, syntax: str, *, stated: str | None = None, fragments: int = 1, table: bool = True, **attributes: Any
) -> bytes:
    """A file whose frames are codestreams."""
    made = image(pixels, **attributes)
    frames = list(pixels) if attributes.get("frames") else [pixels]
    streams = [ENCODERS[syntax](frame, made) for frame in frames]
    made.PixelData = encapsulate(streams, fragments_per_frame=fragments, has_bot=table)
    made["PixelData"].VR = "OB"
    made["PixelData"].is_undefined_length = True
    return encoded(made, syntax, stated=stated)


def _by_imagecodecs(**options: Any) -> Callable[[Pixels, Dataset], bytes]:
    def encode(frame: Pixels, made: Dataset) -> bytes:
        import imagecodecs

        chosen = dict(options)
        if made.BitsStored > 8 and "level" not in chosen:
            chosen["bitspersample"] = made.BitsStored
        if made.BitsStored == 12:
            chosen["bitspersample"] = 12
        return bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(frame).view(f"u{frame.itemsize}"), **chosen))

    return encode


def _jpeg_ls(near: int) -> Callable[[Pixels, Dataset], bytes]:
    def encode(frame: Pixels, made: Dataset) -> bytes:
        import imagecodecs

        return bytes(imagecodecs.jpegls_encode(np.ascontiguousarray(frame).view(f"u{frame.itemsize}"), level=near))

    return encode


def _jpeg2000(*, reversible: bool) -> Callable[[Pixels, Dataset], bytes]:
    def encode(frame: Pixels, made: Dataset) -> bytes:
        import imagecodecs

        level = {} if reversible else {"level": 60}
        return bytes(
            imagecodecs.jpeg2k_encode(
                np.ascontiguousarray(frame),
                codecformat="j2k",
                reversible=reversible,
                bitspersample=made.BitsStored,
                mct=made.PhotometricInterpretation in ("YBR_RCT", "YBR_ICT"),
                **level,
            )
        )

    return encode


def _htj2k(frame: Pixels, made: Dataset) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.htj2k_encode(np.ascontiguousarray(frame), reversible=True))


def _rle(frame: Pixels, made: Dataset) -> bytes:
    """pydicom's own encoder, which is not the decoder's."""
    from pydicom.pixels.encoders.base import EncodeRunner
    from pydicom.pixels.encoders.native import _encode_frame as encode_segments

    runner = EncodeRunner(uid.RLELossless)
    runner.set_options(
        rows=frame.shape[0], columns=frame.shape[1], samples_per_pixel=made.SamplesPerPixel, number_of_frames=1,
        bits_allocated=made.BitsAllocated, bits_stored=made.BitsStored, pixel_representation=made.PixelRepresentation,
        photometric_interpretation=made.PhotometricInterpretation, planar_configuration=0,
    )  # fmt: skip
    return bytes(encode_segments(np.ascontiguousarray(frame).astype(frame.dtype.newbyteorder("<")).tobytes(), runner))


ENCODERS: dict[str, Callable[[Pixels, Dataset], bytes]] = {
    uid.RLELossless: _rle,
    uid.JPEGBaseline8Bit: _by_imagecodecs(level=95),
    uid.JPEGExtended12Bit: _by_imagecodecs(level=95),
    uid.JPEGLossless: _by_imagecodecs(lossless=True, predictor=6),
    uid.JPEGLosslessSV1: _by_imagecodecs(lossless=True, predictor=1),
    uid.JPEGLSLossless: _jpeg_ls(0),
    uid.JPEGLSNearLossless: _jpeg_ls(2),
    uid.JPEG2000Lossless: _jpeg2000(reversible=True),
    uid.JPEG2000: _jpeg2000(reversible=False),
    uid.HTJ2KLossless: _htj2k,
    uid.HTJ2KLosslessRPCL: _htj2k,
    uid.HTJ2K: _htj2k,
}
LOSSLESS = (
    uid.RLELossless, uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless,
    uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K,
)  # fmt: skip
"""Syntaxes whose encoder here loses nothing; JPEG 2000 and HTJ2K may be lossy in other files."""
UNCOMPRESSED = (
    uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian,
)  # fmt: skip


def smooth(rows: int = 40, columns: int = 48, most: int = 4095) -> NDArray[np.uint16]:
    """Grey values that a lossy codec keeps well, with every value range between 0 and ``most``."""
    y, x = np.mgrid[0:rows, 0:columns]
    waves = np.sin(x / 7.0) * np.cos(y / 5.0)
    return np.rint((waves + 1) / 2 * most).astype(np.uint16)


def colours(rows: int = 40, columns: int = 48) -> NDArray[np.uint8]:
    """A picture in which each colour occurs."""
    y, x = np.mgrid[0:rows, 0:columns]
    return np.stack([x * 255 // columns, y * 255 // rows, (x + y) * 255 // (rows + columns)], -1).astype(np.uint8)


def psnr(one: Pixels, other: Pixels, most: float) -> float:
    """Peak signal-to-noise ratio in decibels."""
    error = float(np.mean((one.astype(float) - other.astype(float)) ** 2))
    return float("inf") if not error else 10 * float(np.log10(most**2 / error))


def raster(kind: str) -> bytes:
    """An image file of this format."""
    buffer = io.BytesIO()
    Image.fromarray(colours()).save(buffer, kind)
    return buffer.getvalue()
