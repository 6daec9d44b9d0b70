"""MP3 frame parser: the frames without tags and junk between them, after a header with their true count.

Decoders take the length from a Xing or Info frame and guess it where there is none. Both are wrong for a stream that
was cut, joined from several files, or has a variable bitrate. ISO/IEC 11172-3 and 13818-3, layer III.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

_BITRATES = {  # kbit/s by MPEG-1 or not
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_HEADER = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb][\x10-\xef]")
_GAP = 65_536  # bytes without a frame after which no further one is looked for
_TRIES = 100_000  # places that look like a frame and are none, in a whole file
_HAS_FRAMES, _HAS_BYTES = 1, 2  # flags of a Xing frame


@dataclass(frozen=True, slots=True)
class Mp3Frame:
    """size: bytes with the header. samples: per channel. kind: the same in all frames of a stream. tag_at: where a Xing
    frame holds its tag."""

    size: int
    samples: int
    rate: int
    kind: tuple[int, int, bool]
    tag_at: int


@dataclass(slots=True)
class _Stream:
    """Frames of one kind. tag: the Xing frame that stood before them, or nothing."""

    kind: tuple[int, int, bool]
    tag: bytes = b""
    frames: list[bytes] = field(default_factory=list)


def parse_frame(data: bytes, at: int) -> Mp3Frame | None:
    """The layer III frame whose header stands at ``at``; None if none does, or if its bitrate is free."""
    header = data[at : at + 4]
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return None
    version, bitrate, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or bitrate in (0, 15) or rate == 3:
        return None
    first, mono, hertz = version == 3, header[3] >> 6 == 3, _RATES[version][rate]
    size = (144_000 if first else 72_000) * _BITRATES[first][bitrate] // hertz + (header[2] >> 1 & 1)
    side = (17 if mono else 32) if first else (9 if mono else 17)
    checksum = 0 if header[1] & 1 else 2
    return Mp3Frame(size, 1152 if first else 576, hertz, (version, rate, mono), 4 + checksum + side)


def after_id3(data: bytes, at: int = 0) -> int:
    """Where what follows the ID3v2 tags at ``at`` begins."""
    while data[at : at + 3] == b"ID3" and at + 10 <= len(data):
        size = 0
        for byte in data[at + 6 : at + 10]:
            size = size << 7 | byte & 0x7F
        at += 10 + size
    return at


def find_frame(data: bytes, at: int) -> int:
    """Where, within 64 KiB of ``at``, a frame begins that another of its kind or the end follows; -1 without one."""
    return next((place for place, found in _candidates(data, at) if found), -1)


def mp3_parts(data: bytes, seconds: float) -> Iterator[bytes]:
    """An MP3 with a right count of its frames for each stream in ``data``; no more than ``seconds`` in all."""
    stream: _Stream | None = None
    for frame, content in _frames(data):
        is_tag = content[frame.tag_at : frame.tag_at + 4] in (b"Xing", b"Info")
        if stream is None or is_tag or frame.kind != stream.kind:
            if stream is not None and stream.frames:
                yield _counted(stream)
            stream = _Stream(frame.kind, content if is_tag else b"")
        if not is_tag:
            stream.frames.append(content)
            seconds -= frame.samples / frame.rate
        if seconds < 0:
            break
    if stream is not None and stream.frames:
        yield _counted(stream)


def _frames(data: bytes) -> Iterator[tuple[Mp3Frame, bytes]]:
    at, tries = find_frame(data, 0), _TRIES
    while 0 <= at < len(data):
        frame = parse_frame(data, at)
        if frame is not None and at + frame.size <= len(data):
            yield frame, data[at : at + frame.size]
            at += frame.size
            continue
        begin, at = after_id3(data, at), -1
        for place, found in _candidates(data, begin):
            tries -= 1
            if found:
                at = place
            if found or tries < 0:
                break


def _candidates(data: bytes, at: int) -> Iterator[tuple[int, bool]]:
    """Places that look like a frame's header, and whether they are one."""
    for match in _HEADER.finditer(data, at, at + _GAP):
        place = match.start()
        frame = parse_frame(data, place)
        end = place + frame.size if frame is not None else -1
        following = parse_frame(data, end) if frame is not None else None
        alike = frame is not None and following is not None and following.kind == frame.kind
        yield place, alike or end == len(data)


def _counted(stream: _Stream) -> bytes:
    frames = b"".join(stream.frames)
    first = parse_frame(stream.frames[0], 0)
    assert first is not None
    tag = bytearray(stream.tag)
    at = first.tag_at
    if not tag or not tag[at + 7] & _HAS_FRAMES:
        tag = _empty_frame(stream.frames[0], at + 12)
        tag[at : at + 8] = b"Xing" + struct.pack(">I", _HAS_FRAMES)
    struct.pack_into(">I", tag, at + 8, len(stream.frames))
    if tag[at + 7] & _HAS_BYTES:
        struct.pack_into(">I", tag, at + 12, len(tag) + len(frames))
    return bytes(tag) + frames


def _empty_frame(like: bytes, least: int) -> bytearray:
    """A frame of ``like``'s kind with nothing in it, of the lowest bitrate at which it has ``least`` bytes."""
    for bitrate in range(1, 15):
        header = bytes((like[0], like[1], bitrate << 4 | like[2] & 0x0D, like[3]))
        frame = parse_frame(header, 0)
        if frame is not None and frame.size >= least:
            return bytearray(header.ljust(frame.size, b"\x00"))
    raise AssertionError("every kind of frame has room for a tag at its highest bitrate")
