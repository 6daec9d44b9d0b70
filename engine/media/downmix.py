"""Downmix of any number of channels to mono, adaptive, so that a voice on any of them is heard.

A plain mean halves a voice that is on one side, and cancels one that is inverted on the other side. Here channels that
run against the loudest one are inverted before the sum, and the sum is held at the loudest channel's level.
"""

import math

import numpy as np
from numpy.typing import NDArray

_MEMORY_S = 0.1  # time constant over which the channels are compared
_OPPOSED = 0.5  # correlation beyond which a channel's sign is decided anew


class Downmix:
    """Streaming; the weights change gradually over each pushed block (10 to 50 ms is a good length)."""

    def __init__(self, channels: int, rate: int) -> None:
        assert channels > 0 and rate > 0
        self._rate = rate
        self._products = np.zeros((channels, channels))  # decaying sums of x_i x_j, without each block's mean
        self._signs = np.ones(channels)
        self._weights: NDArray[np.float64] | None = None  # None until something was heard

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [n, channels] at any scale to float32 [n] at the same scale; mono passes unchanged.

        The sum of channels may peak above the highest channel.
        """
        assert samples.ndim == 2 and samples.shape[1] == len(self._signs)
        if samples.shape[1] == 1 or len(samples) == 0:
            return samples[:, 0]
        before, after = self._weights, self._next_weights(samples)
        if before is None or np.array_equal(before, after):
            return (samples @ after).astype(np.float32)
        ramp = np.arange(1, len(samples) + 1) / len(samples)
        return ((samples @ before) * (1 - ramp) + (samples @ after) * ramp).astype(np.float32)

    def _next_weights(self, samples: NDArray[np.float32]) -> NDArray[np.float64]:
        centred = (samples - samples.mean(axis=0)).astype(np.float64)
        keep = math.exp(-len(samples) / (_MEMORY_S * self._rate))
        self._products = keep * self._products + centred.T @ centred
        levels = np.sqrt(np.diagonal(self._products))
        loudest = int(levels.argmax())
        if levels[loudest] == 0.0:
            return np.full(len(levels), 1 / len(levels)) if self._weights is None else self._weights
        likeness = self._products[loudest] / np.maximum(levels * levels[loudest], 1e-300)
        kept = self._signs * self._signs[loudest]
        signs = np.where(np.abs(likeness) > _OPPOSED, np.sign(likeness), kept)
        # The whole keeps its polarity when another channel becomes the loudest.
        self._signs = -signs if signs @ self._signs < 0 else signs
        mixed = float(self._signs @ self._products @ self._signs)
        self._weights = self._signs * min(1.0, levels[loudest] / math.sqrt(max(mixed, 1e-300)))
        return self._weights
