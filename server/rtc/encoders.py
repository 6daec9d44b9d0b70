"""Video encoders whose bitrate changes rarely and in large steps.

aiortc 1.16 destroys and re-creates an encoder whenever the receiver's bandwidth estimate moves by 10 %, and every new
encoder begins with a keyframe: six bursts in the first fourteen seconds. These encoders change the bitrate only when
the estimate is a quarter lower or a third higher, and at most every 3 s.
"""

from collections.abc import Callable
from dataclasses import dataclass

from aiortc.codecs.base import Encoder
from aiortc.codecs.h264 import H264Encoder
from aiortc.codecs.vpx import Vp8Encoder

from ground.clock import Clock, monotonic
from server.settings import LEAST_VIDEO_KBPS

MIN_BITRATE = LEAST_VIDEO_KBPS * 1000
KEYFRAME_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class BitrateRange:
    """Bitrates in bits per second. A talking head of the given size looks good at ``start`` and cannot use more than
    ``most``."""

    start: int
    most: int


_BY_SIZE = (  # largest number of pixels, and the range up to it
    (256 * 256, BitrateRange(500_000, 1_000_000)),
    (512 * 512, BitrateRange(1_000_000, 2_000_000)),
    (832 * 480, BitrateRange(1_500_000, 2_500_000)),
)
_LARGER = BitrateRange(2_000_000, 4_000_000)


def bitrate_for(width: int, height: int, most: int = 0) -> BitrateRange:
    """Bitrate range for pictures of this size. most: highest bitrate in bits per second; 0: by size."""
    fitting = next((limits for pixels, limits in _BY_SIZE if width * height <= pixels), _LARGER)
    return BitrateRange(min(fitting.start, most), most) if most else fitting


class BitrateSteps:
    """Encoder bitrate in bits per second, ``now``: changes for an estimate of at most 0.75 or at least 1.33 times
    itself, and only ``HOLD_S`` seconds after the last change."""

    HOLD_S = 3.0

    def __init__(self, limits: BitrateRange, clock: Clock = monotonic) -> None:
        self.now = limits.start
        self._limits, self._clock = limits, clock
        self._since = clock()

    def estimate(self, bitrate: int) -> int:
        """Take the receiver's estimate, in bits per second. Returns the bitrate to encode at."""
        wanted = max(MIN_BITRATE, min(int(bitrate), self._limits.most))
        if self._clock() - self._since >= self.HOLD_S and not 0.75 < wanted / self.now < 1.33:
            self.now, self._since = wanted, self._clock()
        return self.now


class SteadyVp8Encoder(Vp8Encoder):
    """VP8, the default, because it is the cheaper codec with aiortc's own settings.

    aiortc's setter clamps the bitrate to 1.5 Mb/s and keeps it in a private field, which also sizes the encoder's rate
    buffer. This setter writes the field without the clamp.
    """

    def __init__(self, limits: BitrateRange) -> None:
        super().__init__()
        assert hasattr(self, "_Vp8Encoder__target_bitrate"), "aiortc has changed: see server/rtc/encoders.py"
        self._steps = BitrateSteps(limits)
        self._Vp8Encoder__target_bitrate = limits.start

    @property
    def target_bitrate(self) -> int:
        return self._steps.now

    @target_bitrate.setter
    def target_bitrate(self, bitrate: int) -> None:
        self._Vp8Encoder__target_bitrate = self._steps.estimate(bitrate)


class SteadyH264Encoder(H264Encoder):
    """H.264, for browsers that ask for it."""

    def __init__(self, limits: BitrateRange) -> None:
        super().__init__()
        self._steps = BitrateSteps(limits)

    @property
    def target_bitrate(self) -> int:
        return self._steps.now

    @target_bitrate.setter
    def target_bitrate(self, bitrate: int) -> None:
        self._steps.estimate(bitrate)


def make_encoder(mime_type: str, limits: BitrateRange) -> Encoder:
    return SteadyH264Encoder(limits) if mime_type.lower() == "video/h264" else SteadyVp8Encoder(limits)


class KeyframeGate:
    """Rate limit on the receiver's keyframe requests (PLI, FIR): at most one a second is passed on."""

    def __init__(self, send: Callable[[], None], clock: Clock = monotonic) -> None:
        self._send, self._clock = send, clock
        self._last = -KEYFRAME_EVERY_S

    def __call__(self) -> None:
        if self._clock() - self._last >= KEYFRAME_EVERY_S:
            self._last = self._clock()
            self._send()
