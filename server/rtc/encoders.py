"""Video encoders whose bitrate moves in few, wide steps.

aiortc 1.16 destroys and re-creates an encoder whenever the receiver's estimate moves by 10 %, and every new encoder
begins with a keyframe: six bursts in the first fourteen seconds. These follow the estimate only when it is far away and
has been so.
"""

from collections.abc import Callable
from dataclasses import dataclass

from aiortc.codecs.base import Encoder
from aiortc.codecs.h264 import H264Encoder
from aiortc.codecs.vpx import Vp8Encoder

from ground.clock import Clock, monotonic

MIN_BITRATE = 150_000
KEYFRAME_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class BitrateRange:
    """Bits per second. A talking head of this size looks good at ``start`` and cannot use more than ``most``."""

    start: int
    most: int


def bitrate_for(width: int, height: int) -> BitrateRange:
    if width * height <= 256 * 256:
        return BitrateRange(500_000, 1_000_000)
    if width * height <= 512 * 512:
        return BitrateRange(1_000_000, 1_500_000)  # 1.5 Mb/s is the most that aiortc's VP8 takes
    return BitrateRange(1_500_000, 1_500_000)


class BitrateSteps:
    """What to encode at, given the receiver's estimates: reacts below 3/4 or above 4/3 of now, at most every 3 s."""

    HOLD_S = 3.0

    def __init__(self, limits: BitrateRange, clock: Clock = monotonic) -> None:
        self.now = limits.start
        self._limits, self._clock = limits, clock
        self._since = clock()

    def estimate(self, bitrate: int) -> int:
        wanted = max(MIN_BITRATE, min(int(bitrate), self._limits.most))
        if self._clock() - self._since >= self.HOLD_S and not 0.75 < wanted / self.now < 1.33:
            self.now, self._since = wanted, self._clock()
        return self.now


class SteadyVp8Encoder(Vp8Encoder):
    """VP8, the default: cheapest as shipped."""

    def __init__(self, limits: BitrateRange) -> None:
        super().__init__()
        self._steps = BitrateSteps(limits)
        Vp8Encoder.target_bitrate.fset(self, limits.start)  # type: ignore[attr-defined]

    @property
    def target_bitrate(self) -> int:
        return self._steps.now

    @target_bitrate.setter
    def target_bitrate(self, bitrate: int) -> None:
        Vp8Encoder.target_bitrate.fset(self, self._steps.estimate(bitrate))  # type: ignore[attr-defined]


class SteadyH264Encoder(H264Encoder):
    """H.264, for browsers that ask for it."""

    def __init__(self, limits: BitrateRange) -> None:
        super().__init__()
        self._steps = BitrateSteps(limits)
        H264Encoder.target_bitrate.fset(self, limits.start)  # type: ignore[attr-defined]

    @property
    def target_bitrate(self) -> int:
        return self._steps.now

    @target_bitrate.setter
    def target_bitrate(self, bitrate: int) -> None:
        H264Encoder.target_bitrate.fset(self, self._steps.estimate(bitrate))  # type: ignore[attr-defined]


def make_encoder(mime_type: str, limits: BitrateRange) -> Encoder:
    return SteadyH264Encoder(limits) if mime_type.lower() == "video/h264" else SteadyVp8Encoder(limits)


class KeyframeGate:
    """Passes at most one keyframe request a second on, whatever the receiver asks for."""

    def __init__(self, send: Callable[[], None], clock: Clock = monotonic) -> None:
        self._send, self._clock = send, clock
        self._last = -KEYFRAME_EVERY_S

    def __call__(self) -> None:
        if self._clock() - self._last >= KEYFRAME_EVERY_S:
            self._last = self._clock()
            self._send()
