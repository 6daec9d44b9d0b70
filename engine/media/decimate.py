"""Streaming decimator from 48 to 16 kHz: a linear-phase low-pass with explicit state and no delay of its own.

Output sample m stands at input sample 3m exactly; the filter's half length is waited for, never left in as a shift, so
the drive and the sound keep one time line. Knows nothing of calls or files.
"""

import numpy as np
from numpy.typing import NDArray

from ground.units import PLAYOUT_PER_DRIVE as RATIO
from ground.units import PLAYOUT_RATE

_HALF = 96  # 2 ms: a transition of about 0.8 kHz below the 8 kHz fold
_TAPS = 2 * _HALF + 1


def _low_pass() -> NDArray[np.float32]:
    """Windowed sinc with its corner at 7.6 kHz, where the mel bands end; sums to one."""
    n = np.arange(_TAPS) - _HALF
    taps = np.sinc(2 * 7600 / PLAYOUT_RATE * n) * np.kaiser(_TAPS, 8.0)
    kernel: NDArray[np.float32] = (taps / taps.sum()).astype(np.float32)
    return kernel


_KERNEL = _low_pass()


class Decimator:
    """Streams blocks of any size; the joined output equals that of one push of everything (but for the last bit)."""

    def __init__(self) -> None:
        self._buffer = np.zeros(_HALF, np.float32)  # before the start: silence

    def push(self, pcm: NDArray[np.int16]) -> NDArray[np.int16]:
        """Take the next 48 kHz samples, give every 16 kHz sample whose 2 ms of future are now known."""
        buffer = np.concatenate([self._buffer, pcm.astype(np.float32)])
        count = max(0, (len(buffer) - _TAPS) // RATIO + 1)
        if count == 0:
            self._buffer = buffer
            return np.zeros(0, np.int16)
        windows = np.lib.stride_tricks.sliding_window_view(buffer, _TAPS)[: count * RATIO : RATIO]
        self._buffer = buffer[count * RATIO :]
        return np.clip(np.rint(windows @ _KERNEL), -32768, 32767).astype(np.int16)

    def forget(self) -> None:
        """Take what was pushed so far for silence; time goes on where it is."""
        self._buffer = np.zeros_like(self._buffer)

    def flush(self) -> NDArray[np.int16]:
        """The samples still waiting for their future, which is now known to be silence."""
        return self.push(np.zeros(_HALF, np.int16))


def decimate(pcm: NDArray[np.int16]) -> NDArray[np.int16]:
    """A whole 48 kHz recording at once: ceil(n / 3) samples at 16 kHz."""
    decimator = Decimator()
    return np.concatenate([decimator.push(pcm), decimator.flush()])[: -(-len(pcm) // RATIO)]
