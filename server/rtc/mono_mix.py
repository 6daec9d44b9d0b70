"""Downmix of a stereo microphone to mono by the channels' short-term energies.

A voice in one channel keeps its level, equal channels stay as they are, and channels of opposite phase do not cancel.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ground.units import PLAYOUT_RATE

TIME_CONSTANT = PLAYOUT_RATE // 10  # samples over which energies are averaged
OPPOSITE, ALIKE = -0.5, 0.5  # correlations below and above which the right channel's sign is changed


@dataclass(frozen=True, slots=True)
class MixState:
    """Averages of left², right² and left·right, and the two weights at the end of the last block."""

    left: float = 0.0
    right: float = 0.0
    cross: float = 0.0
    weights: tuple[float, float] | None = None


def mix(state: MixState, stereo: NDArray[np.int16]) -> tuple[NDArray[np.int16], MixState]:
    """stereo: int16 [N, 2], N > 0. Returns int16 [N] and the state for the next block.

    The weights' magnitudes add up to 1 and move linearly within a block, so nothing clips or clicks.
    """
    first, second = stereo[:, 0].astype(np.float64), stereo[:, 1].astype(np.float64)
    n = len(stereo)
    keep = math.exp(-n / TIME_CONSTANT)
    left = keep * state.left + (1 - keep) / n * float(first @ first)
    right = keep * state.right + (1 - keep) / n * float(second @ second)
    cross = keep * state.cross + (1 - keep) / n * float(first @ second)
    after = _weights(left, right, cross, state.weights)
    before = state.weights or after
    ramp = np.arange(1, n + 1) / n
    mono = first * (before[0] + (after[0] - before[0]) * ramp) + second * (before[1] + (after[1] - before[1]) * ramp)
    return np.rint(mono).astype(np.int16), MixState(left, right, cross, after)


def _weights(left: float, right: float, cross: float, before: tuple[float, float] | None) -> tuple[float, float]:
    total = left + right
    if total < 1.0:  # digital silence
        return before or (0.5, 0.5)
    sign = -1.0 if before is not None and before[1] < 0 else 1.0
    correlation = cross / max(1.0, math.sqrt(left * right))
    # With hysteresis, and the sign never follows the energies: else a voice that changes sides would pass through zero.
    if correlation < OPPOSITE:
        sign = -1.0
    elif correlation > ALIKE:
        sign = 1.0
    return left / total, sign * right / total
