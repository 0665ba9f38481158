"""Ways to damage a file. Each takes its bytes and a seeded generator, and gives the bytes of the damaged one."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from typing import TypeAlias

from tests.fuzz.pictures import chunk

Harm: TypeAlias = Callable[[bytes, random.Random], bytes]
INTACT = "none"


def truncated(data: bytes, rng: random.Random) -> bytes:
    """Cut somewhere behind the signature."""
    return data[: rng.randrange(16, len(data))]


def flipped(count: int) -> Harm:
    """Replace so many bytes."""

    def harm(data: bytes, rng: random.Random) -> bytes:
        harmed = bytearray(data)
        for place in rng.sample(range(8, len(data)), count):
            harmed[place] ^= rng.randrange(1, 256)
        return bytes(harmed)

    return harm


def blanked(data: bytes, rng: random.Random) -> bytes:
    """Forty bytes become zeros, as of a lost block."""
    start = rng.randrange(16, len(data) - 40)
    return data[:start] + bytes(40) + data[start + 40 :]


def doubled(data: bytes, rng: random.Random) -> bytes:
    """Forty bytes stand there twice."""
    start = rng.randrange(16, len(data) - 40)
    return data[: start + 40] + data[start:]


def cut_and_closed(data: bytes, rng: random.Random) -> bytes:
    """Half of a JPEG, with the mark of its end."""
    scan = data.index(b"\xff\xda")
    return data[: rng.randrange(scan + 20, len(data) - 20)] + b"\xff\xd9"


def frame_header(data: bytes) -> int:
    """Return the position of a JPEG's height."""
    position = 2
    while data[position + 1] not in (0xC0, 0xC1, 0xC2):
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return position + 5


def other_height_jpeg(data: bytes, rng: random.Random) -> bytes:
    """More rows, or fewer, in the header than there are; at least a row of blocks of any subsampling."""
    place = frame_header(data)
    height = int.from_bytes(data[place : place + 2], "big")
    other = rng.choice([height + 256, height * 3, height + 49_152, height // 2, height - 16])
    return data[:place] + struct.pack(">H", min(other, 65_500)) + data[place + 2 :]


def chunks_of(data: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and content of the chunks of an intact PNG."""
    found, position = [], 8
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        found.append((kind, data[position + 8 : position + 8 + length]))
        position += 12 + length
    return found


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG of these chunks, with right CRCs."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, content) for kind, content in chunks)


def wrong_crc(data: bytes, rng: random.Random) -> bytes:
    """One chunk's CRC is not its content's."""
    chunks = chunks_of(data)
    ends, position = [], 8
    for _, content in chunks:
        position += 12 + len(content)
        ends.append(position)
    place = rng.choice(ends) - rng.randrange(1, 5)
    return data[:place] + bytes([data[place] ^ rng.randrange(1, 256)]) + data[place + 1 :]


def other_height_png(data: bytes, rng: random.Random) -> bytes:
    """More rows, or fewer, in a header with a right CRC."""
    (_, header), *rest = chunks_of(data)
    height = int.from_bytes(header[4:8], "big")
    other = rng.choice([height + 1, height * 3, 49_376, height - 1, height // 2])
    return png_of([(b"IHDR", header[:4] + struct.pack(">I", other) + header[8:]), *rest])


def short_data_png(data: bytes, rng: random.Random) -> bytes:
    """The compressed data end too early, in a whole stream or a cut one, with right CRCs."""
    chunks = chunks_of(data)
    image = b"".join(content for kind, content in chunks if kind == b"IDAT")
    if rng.random() < 0.5:
        rows = zlib.decompress(image)
        image = zlib.compress(rows[: rng.randrange(len(rows) // 2, len(rows))])
    else:
        image = image[: rng.randrange(len(image) // 2, len(image) - 5)]
    head = [one for one in chunks if one[0] not in (b"IDAT", b"IEND")]
    return png_of([*head, (b"IDAT", image), (b"IEND", b"")])


def lost_chunk(data: bytes, rng: random.Random) -> bytes:
    """A chunk that a decoder needs is missing."""
    chunks = chunks_of(data)
    del chunks[rng.choice([n for n, (kind, _) in enumerate(chunks) if kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND")])]
    return png_of(chunks)


def other_tag_tiff(tag: int) -> Harm:
    """One number of the directory becomes larger or smaller."""

    def harm(data: bytes, rng: random.Random) -> bytes:
        start = int.from_bytes(data[4:8], "little")
        for number in range(int.from_bytes(data[start : start + 2], "little")):
            place = start + 2 + 12 * number
            if int.from_bytes(data[place : place + 2], "little") == tag and data[place + 4 : place + 8] == b"\1\0\0\0":
                value = int.from_bytes(data[place + 8 : place + 12], "little")
                other = rng.choice([value + 64, value * 2, value // 2, value - 8])
                return data[: place + 8] + struct.pack("<I", other) + data[place + 12 :]
        return data

    return harm


EVERYWHERE: dict[str, Harm] = {
    "cut": truncated,
    "1 byte flipped": flipped(1),
    "20 bytes flipped": flipped(20),
    "40 bytes zero": blanked,
    "40 bytes twice": doubled,
}
DAMAGE: dict[str, dict[str, Harm]] = {
    "JPEG": {**EVERYWHERE, "cut, closed with FFD9": cut_and_closed, "other height": other_height_jpeg},
    "PNG": {
        **EVERYWHERE,
        "wrong CRC": wrong_crc,
        "other height, right CRC": other_height_png,
        "short data, right CRC": short_data_png,
        "lost chunk": lost_chunk,
    },
    "TIFF": {**EVERYWHERE, "other height": other_tag_tiff(257), "other byte count": other_tag_tiff(279)},
    **dict.fromkeys(("GIF", "BMP", "WEBP", "JPEG2000", "PPM"), EVERYWHERE),
}
