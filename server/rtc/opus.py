"""Opus decoder with packet loss concealment that keeps the sample count exact.

A gap of up to 200 ms in the RTP timestamps is filled by libopus' packet loss concealment, which decodes a packet
without a payload (RFC 6716, section 3.2.1). The concealment fades out as in G.711 Appendix I, and the returning voice
fades in. FFmpeg gives no access to in-band FEC, so the answer does not ask for it.
"""

import logging
from fractions import Fraction

import numpy as np
from aiortc import rtcrtpreceiver
from aiortc.codecs import get_decoder
from aiortc.codecs.base import Decoder
from aiortc.codecs.opus import OpusDecoder
from aiortc.jitterbuffer import JitterFrame
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from av import AudioFrame, FFmpegError, Packet
from av.frame import Frame
from numpy.typing import NDArray

from ground.units import BLOCK, PLAYOUT_RATE

logger = logging.getLogger(__name__)

MAX_FILL = PLAYOUT_RATE // 5  # samples: a longer gap is a pause and is not concealed
FULL, SILENT = PLAYOUT_RATE // 100, PLAYOUT_RATE * 6 // 100  # samples after the last good one: fading begins, ends
RETURN = PLAYOUT_RATE // 200  # samples over which a returning voice is faded in


class ConcealingDecoder(OpusDecoder):
    """Frames are int16, packed stereo, 48 kHz. Each begins where the last one ended, except after a gap of more than
    ``MAX_FILL`` samples or a timestamp that goes back."""

    def __init__(self) -> None:
        super().__init__()
        self._expected: int | None = None
        self._toc = 0
        self._gain = 1.0

    def decode(self, encoded_frame: JitterFrame) -> list[Frame]:
        """Frames of the gap before a packet, then of the packet. An unreadable packet counts as lost."""
        if not encoded_frame.data:
            return []
        start = encoded_frame.timestamp
        gap = 0 if self._expected is None else start - self._expected
        frames = self._conceal(gap) if 0 < gap <= MAX_FILL else []
        if gap > MAX_FILL:
            self._gain = 0.0
        sound = self._sound(encoded_frame.data)
        if not len(sound):
            self._expected = start if self._expected is None else max(start, self._expected)
            return frames
        self._toc = encoded_frame.data[0]
        if self._gain < 1.0:
            count = min(RETURN, len(sound))
            sound[:count] = _scaled(sound[:count], np.linspace(self._gain, 1.0, count))
            self._gain = 1.0
        self._expected = start + len(sound)
        return [*frames, _frame(sound, start)]

    def _conceal(self, gap: int) -> list[Frame]:
        assert self._expected is not None
        frames: list[Frame] = []
        done = 0
        while done < gap:
            count = min(BLOCK, gap - done)
            sound, gains = np.zeros((count, 2), np.int16), fade(done, count)
            if done < SILENT:
                made = self._sound(bytes([_empty(self._toc, long=count == BLOCK)]))[:count]
                sound[: len(made)] = _scaled(made, gains[: len(made)])
            self._gain = float(gains[-1])
            frames.append(_frame(sound, self._expected + done))
            done += count
        return frames

    def _sound(self, data: bytes) -> NDArray[np.int16]:
        """Samples of one packet, int16 [N, 2]; N is 0 if it cannot be read."""
        try:
            decoded = self.codec.decode(Packet(data))
        except FFmpegError as error:
            logger.debug("an Opus packet cannot be read kind=%s", type(error).__name__)
            decoded = []
        return np.concatenate([np.zeros((0, 2), np.int16), *(frame.to_ndarray().reshape(-1, 2) for frame in decoded)])


def fade(start: int, count: int) -> NDArray[np.float64]:
    """Gains of ``count`` concealed samples, float64 [count], the first one ``start`` samples into the gap."""
    at = np.arange(start, start + count)
    return np.clip((SILENT - 1 - at) / (SILENT - 1 - FULL), 0.0, 1.0)


def conceal_losses() -> None:
    """Make aiortc decode Opus with this decoder, in every connection of this process."""
    assert hasattr(rtcrtpreceiver, "get_decoder"), "aiortc has changed: see server/rtc/opus.py"
    rtcrtpreceiver.get_decoder = _decoder_for


def _decoder_for(codec: RTCRtpCodecParameters) -> Decoder:
    return ConcealingDecoder() if codec.mimeType.lower() == "audio/opus" else get_decoder(codec)


def _empty(toc: int, long: bool) -> int:
    """TOC byte (RFC 6716, section 3.1) of a packet with one empty frame in the mode of the packet ``toc``: 20 ms if
    ``long``, else 10 ms."""
    config = toc >> 3
    if config < 12:  # SILK: 10, 20, 40, 60 ms
        config = config & ~3 | int(long)
    elif config < 16:  # hybrid: 10, 20 ms
        config = config & ~1 | int(long)
    else:  # CELT: 2.5, 5, 10, 20 ms
        config = config & ~3 | 2 + int(long)
    return config << 3 | toc & 4


def _scaled(sound: NDArray[np.int16], gains: NDArray[np.float64]) -> NDArray[np.int16]:
    return np.rint(sound * gains[:, None]).astype(np.int16)


def _frame(sound: NDArray[np.int16], start: int) -> AudioFrame:
    frame = AudioFrame.from_ndarray(np.ascontiguousarray(sound).reshape(1, -1), format="s16", layout="stereo")
    frame.sample_rate, frame.pts, frame.time_base = PLAYOUT_RATE, start, Fraction(1, PLAYOUT_RATE)
    return frame
