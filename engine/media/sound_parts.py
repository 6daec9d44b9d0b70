"""Recognition of a sound file's format by its first bytes, and its division into the files that lie in a row in it.

Speech services answer with one file a sentence; joined, most decoders hear the first only.
"""

import re
from collections.abc import Iterator

from engine.media.mp3 import after_id3, find_frame, mp3_parts
from engine.media.wav import is_wav, wav_parts
from ground.errors import MediaError

FORMATS = "WAV, MP3, FLAC, Ogg (Opus or Vorbis), AIFF or AU"
MEDIA_TYPES = ("audio/wav", "audio/mpeg", "audio/flac", "audio/ogg", "audio/aiff", "audio/basic")
_FLAC_START = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
_W64_START = b"riff\x2e\x91\xcf\x11"
_OGG_HEADER, _OGG_BEGINS = 27, 2


def sound_parts(data: bytes, seconds: float) -> Iterator[bytes]:
    """Each whole file in ``data``, with a right header; of MP3 only about ``seconds``.

    Raises MediaError: empty_audio, unsupported_audio, broken_audio.
    """
    if not data:
        raise MediaError("empty_audio", "the audio is empty: nothing arrived, or the file has no bytes")
    data = data[start:] if (start := after_id3(data)) else data
    if is_wav(data):
        return wav_parts(data)
    if data[:4] == b"fLaC":
        return _divided(data, [match.start() for match in _FLAC_START.finditer(data)])
    if data[:4] == b"OggS":
        return _divided(data, _ogg_starts(data))
    if data[:4] == b"FORM" and data[8:12] in (b"AIFF", b"AIFC") or data[:8] == _W64_START:
        return iter((data,))
    if data[:4] in (b".snd", b"dns."):
        return iter((_au(data),))
    if find_frame(data, 0) >= 0:
        return mp3_parts(data, seconds)
    raise MediaError("unsupported_audio", f"this is no sound that can be read: send {FORMATS}", status=415)


def _divided(data: bytes, starts: list[int]) -> Iterator[bytes]:
    if len(starts) < 2:
        return iter((data,))
    ends = [*starts[1:], len(data)]
    return (data[start:end] for start, end in zip(starts, ends, strict=True))


def _ogg_starts(data: bytes) -> list[int]:
    """Where a page begins a stream after pages that do not (streams that run side by side begin together)."""
    starts, began, at = [], False, 0
    while (at := data.find(b"OggS", at)) >= 0 and at + _OGG_HEADER <= len(data):
        begins = bool(data[at + 5] & _OGG_BEGINS)
        if begins and not began:
            starts.append(at)
        began = begins
        segments = data[at + _OGG_HEADER - 1]
        lengths = data[at + _OGG_HEADER : at + _OGG_HEADER + segments]
        at += _OGG_HEADER + segments + sum(lengths)
    return starts


def _au(data: bytes) -> bytes:
    """With its length given as unknown if it is wrong: it then lasts to the end."""
    order = "big" if data[:4] == b".snd" else "little"
    start, size = (int.from_bytes(data[at : at + 4], order) for at in (4, 8))  # type: ignore[arg-type]
    return data if 0 < size <= len(data) - start else data[:8] + b"\xff" * 4 + data[12:]
