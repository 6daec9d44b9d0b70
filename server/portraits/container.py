"""JPEG and PNG files reduced to the parts that decode the pixels, with EXIF and colour profile set aside.

Pillow's readers interpret metadata while they open a file, and fail on what is broken there. They get files without
any. Needs the standard library alone.
"""

import re
import struct
import zlib
from dataclasses import dataclass
from itertools import pairwise

from ground.errors import RequestError

MAX_PROFILE = 4 * 2**20  # bytes of a colour profile; those of printing presses have 2 MiB
MAX_MISSING = 0.1  # share of the rows that may be missing at the bottom

_JPEG_MAGIC = b"\xff\xd8\xff"
_JPEG_MARKER = re.compile(rb"\xff+([\xc0-\xcf\xda-\xfe])")  # those that begin a segment
_JPEG_PIXELS = frozenset(b"\xc0\xc1\xc2\xc3\xc4\xc5\xc6\xc7\xc9\xca\xcb\xcc\xcd\xce\xcf\xdb\xdd")  # SOF, DHT, DQT, DRI
_JPEG_SCAN, _JPEG_END = 0xDA, b"\xff\xd9"
_JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"  # a JFIF header: the colours are YCbCr

_BRANDS = {  # brands of ISO media files, by format
    b"avif": ("AVIF",), b"avis": ("AVIF",), b"mif1": ("AVIF", "HEIF"), b"msf1": ("AVIF", "HEIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), ("HEIF",)),
}  # fmt: skip

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PNG_KEYS = {0: (2,), 2: (6,), 3: range(1, 257)}  # lengths that tRNS may have, by colour type


@dataclass(frozen=True, slots=True)
class Container:
    """data: the file with nothing but its pixels. exif, profile: as they were found, unchecked, empty if there are
    none. cut: whether the file ends before its last scan does.
    """

    data: bytes
    exif: bytes = b""
    profile: bytes = b""
    cut: bool = False


def formats_of(data: bytes) -> tuple[str, ...]:
    """Pillow's names of the formats that a file may be in by its first bytes; empty for one that is none of ours."""
    if data.startswith(_JPEG_MAGIC):
        return ("JPEG",)
    if data.startswith(_PNG_MAGIC):
        return ("PNG",)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ("WEBP",)
    return _BRANDS.get(data[8:12], ()) if data[4:8] == b"ftyp" else ()


def open_container(data: bytes) -> Container:
    """JPEG and PNG taken apart; any other file as it is."""
    if data.startswith(_JPEG_MAGIC):
        return _open_jpeg(data)
    if data.startswith(_PNG_MAGIC):
        return _open_png(data)
    return Container(data)


def orientation(exif: bytes) -> int:
    """EXIF orientation 1 to 8 of the main picture; 1 where it cannot be read."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return 1
    (start,) = struct.unpack_from(order + "I", tiff, 4)
    if start + 2 > len(tiff):
        return 1
    (count,) = struct.unpack_from(order + "H", tiff, start)
    for at in range(start + 2, min(start + 2 + 12 * count, len(tiff) - 11), 12):
        tag, kind = struct.unpack_from(order + "HH", tiff, at)
        if tag == 0x0112:
            form = {1: "B", 3: "H", 4: "I"}.get(kind)
            value = struct.unpack_from(order + form, tiff, at + 8)[0] if form else 1
            return value if 1 <= value <= 8 else 1
    return 1


def mended_png(data: bytes) -> bytes:
    """A PNG of ``open_container`` whose pixel data is cut short or damaged near its end, with the missing rows filled
    by repeating. Raises RequestError ``broken_picture`` if more are missing than ``MAX_MISSING``.
    """
    chunks = list(_png_chunks(data))
    header = next((body for kind, body in chunks if kind == b"IHDR"), b"")
    lengths = _png_rows(header)
    rows = _inflated(b"".join(body for kind, body in chunks if kind == b"IDAT"), sum(lengths))
    missing = 1 - len(rows) / max(1, sum(lengths))
    if missing > MAX_MISSING:
        raise cut_short(missing)
    filled, at = bytearray(rows), 0
    for length in lengths:
        if at >= len(rows):
            filled += b"\x02" + bytes(length - 1)  # filter "up", no difference: the row above once more
        elif at + length > len(rows):
            filled += bytes(at + length - len(filled))
        at += length
    kept = [(kind, body) for kind, body in chunks if kind not in (b"IDAT", b"IEND")]
    return _png([*kept, (b"IDAT", zlib.compress(bytes(filled), 1))])


def cut_short(missing: float) -> RequestError:
    """missing: share of the rows, 0..1."""
    share = f"{100 * missing:.0f} % of its rows are missing: send the whole file"
    return RequestError("broken_picture", f"the picture is damaged or cut short: {share}", param="file")


def _open_jpeg(data: bytes) -> Container:
    kept, exif, profile, at = [b"\xff\xd8"], b"", dict[int, bytes](), 2
    while found := _JPEG_MARKER.search(data, at):
        marker, at = found[1][0], found.end()
        if marker == _JPEG_SCAN:
            cut = data.find(_JPEG_END, at) < 0
            return Container(
                b"".join([*kept, b"\xff\xda", data[at:], _JPEG_END * cut]),
                exif,
                b"".join(part for _, part in sorted(profile.items())),
                cut,
            )
        end = at + int.from_bytes(data[at : at + 2], "big")
        if not at + 2 <= end <= len(data):
            continue  # no segment of that length: go on at the next marker
        body = data[at + 2 : end]
        if marker in _JPEG_PIXELS or (marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12):
            kept.append(b"\xff" + found[1] + data[at:end])
        elif marker == 0xE0 and body.startswith(b"JFIF\0") and len(kept) == 1:
            kept.append(_JFIF)
        elif marker == 0xE1 and body.startswith(b"Exif\0\0"):
            exif = exif or body
        elif marker == 0xE2 and body.startswith(b"ICC_PROFILE\0") and len(body) > 14:
            profile[body[12]] = body[14:]
        at = end
    return Container(data)


def _open_png(data: bytes) -> Container:
    kept, exif, profile, colour_type = list[tuple[bytes, bytes]](), b"", b"", -1
    for kind, body in _png_chunks(data):
        if kind == b"IHDR" and not kept:
            colour_type = body[9] if len(body) == 13 else -1
            kept.append((kind, body))
        elif kind in (b"PLTE", b"IDAT") or (kind == b"tRNS" and len(body) in _PNG_KEYS.get(colour_type, ())):
            kept.append((kind, body))
        elif kind == b"eXIf":
            exif = body
        elif kind == b"iCCP":
            packed = body.partition(b"\0")[2][1:]
            profile = _inflated(packed, MAX_PROFILE + 1)
        elif kind == b"IEND":
            break
    return Container(_png(kept), exif, profile)


def _png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Type and body of every chunk, the last perhaps cut short; checksums are not looked at."""
    chunks, at = list[tuple[bytes, bytes]](), len(_PNG_MAGIC)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        chunks.append((kind, data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def _png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts = [_PNG_MAGIC]
    for kind, body in (*chunks, (b"IEND", b"")):
        parts += (struct.pack(">I", len(body)), kind, body, struct.pack(">I", zlib.crc32(body, zlib.crc32(kind))))
    return b"".join(parts)


def _png_rows(header: bytes) -> list[int]:
    """Bytes of each row as they are compressed, with its filter's byte; interlaced pictures have rows in each pass."""
    if len(header) != 13:
        return []
    width, height, depth, colour_type, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits = depth * _PNG_CHANNELS.get(colour_type, 0)
    rows = list[int]()
    for x, y, across, down in _PNG_PASSES if interlaced else ((0, 0, 1, 1),):
        columns, lines = -(-(width - x) // across), -(-(height - y) // down)
        if columns > 0 and lines > 0:
            rows += [1 + (columns * bits + 7) // 8] * lines
    return rows


def _inflated(packed: bytes, limit: int) -> bytes:
    """At most ``limit`` bytes of a zlib stream, as far as it can be read."""
    stream, parts, done = zlib.decompressobj(), list[bytes](), 0
    pieces = [*range(0, len(packed), 4096), len(packed)]
    try:
        for start, end in pairwise(pieces):
            part = stream.decompress(packed[start:end], limit - done) if done < limit else b""
            parts.append(part)
            done += len(part)
    except zlib.error:
        pass
    return b"".join(parts)
