"""WAV parser that tolerates wrong sizes: each WAV found in the bytes gets a correct header.

Programs that stream a WAV write its header before they know its length (0, 36 or 0xFFFFFFFF), and speech servers send
one whole WAV after another.
"""

import re
import struct
from collections.abc import Iterator

from ground.errors import MediaError

_FORMS = (b"RIFF", b"RIFX", b"RF64", b"BW64")
_HEADER_BYTES = 12  # form, size, WAVE
_CHUNK_NAME = re.compile(rb"[ -~]{4}")
_UNKNOWN = 0xFFFFFFFF
_MAX_FORMAT_BYTES = 4096


def is_wav(data: bytes) -> bool:
    return data[:4] in _FORMS and data[8:12] == b"WAVE"


def wav_parts(data: bytes) -> Iterator[bytes]:
    """The WAVs that lie one after the other in ``data``, those without samples left out.

    A size that is 0, or reaches beyond the end or the next WAV's header, stands for all that is there. Raises
    MediaError ``broken_audio`` when a WAV has no format or no samples' chunk.
    """
    start = _next_header(data, 0)
    while start < len(data):
        part, end = _one_wav(data, start)
        if part:
            yield part
        start = _next_header(data, end)


def _next_header(data: bytes, at: int) -> int:
    """Where a WAV begins, from ``at`` on; the end of ``data`` if none does."""
    while (at := data.find(b"WAVE", at)) >= 0:
        if at >= 8 and data[at - 8 : at - 4] in _FORMS:
            return at - 8
        at += 1
    return len(data)


def _one_wav(data: bytes, start: int) -> tuple[bytes, int]:
    """(a WAV of format and samples only, empty if it has no samples; where it ends in ``data``)."""
    order = ">" if data[start : start + 4] == b"RIFX" else "<"
    at, audio_format, long_size = start + _HEADER_BYTES, b"", 0
    while _is_chunk(data, at):
        name, size = data[at : at + 4], struct.unpack_from(f"{order}I", data, at + 4)[0]
        body = at + 8
        if name == b"data":
            if size == _UNKNOWN and long_size:
                size = long_size
            end = _next_header(data, body)
            if size or _chunk_fits(data, body, order):
                end = min(end, body + size)
            if not audio_format:
                break
            return _rebuilt(audio_format, data[body:end], order), end
        if name == b"fmt ":
            audio_format = data[body : body + min(size, _MAX_FORMAT_BYTES)]
        elif name == b"ds64" and size >= 16 and body + 16 <= len(data):
            long_size = struct.unpack_from("<Q", data, body + 8)[0]
        at = body + size
        if size % 2 and not _is_chunk(data, at):
            at += 1  # chunks begin at even places, but some writers forget it
    raise MediaError(
        "broken_audio", "the WAV is damaged or cut short: it has no samples' chunk (data) after its format"
    )


def _rebuilt(audio_format: bytes, samples: bytes, order: str) -> bytes:
    if not samples:
        return b""
    frame = int.from_bytes(audio_format[12:14], "big" if order == ">" else "little")  # nBlockAlign
    if 1 < frame <= len(samples):  # a compressed block that is cut would decode to noise
        samples = samples[: len(samples) // frame * frame]
    audio_format += b"\x00" * (len(audio_format) % 2)
    start = b"WAVEfmt " + struct.pack(f"{order}I", len(audio_format)) + audio_format
    start += b"data" + struct.pack(f"{order}I", len(samples))
    size = struct.pack(f"{order}I", len(start) + len(samples))
    return b"".join((b"RIFX" if order == ">" else b"RIFF", size, start, samples))


def _is_chunk(data: bytes, at: int) -> bool:
    return at + 8 <= len(data) and _CHUNK_NAME.match(data, at) is not None


def _chunk_fits(data: bytes, at: int, order: str) -> bool:
    """Whether a chunk, and not samples, begins at ``at``."""
    if not _is_chunk(data, at):
        return False
    return at + 8 + int(struct.unpack_from(f"{order}I", data, at + 4)[0]) <= len(data)
