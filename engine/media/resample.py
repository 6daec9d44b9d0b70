"""Streaming resampling of any rate to the playout rate, without clicks where one recording follows another.

A resampler's filter reaches beyond both ends. With silence there, speech that was cut into parts and resampled part by
part has a click at every seam, up to half its own level. Here each end is continued by its reflection about the last
sample.
"""

import math

import numpy as np
import soxr
from numpy.typing import NDArray

from ground.units import PLAYOUT_RATE

_MARGIN_S = 0.01


class Resampler:
    """float32 mono: ``push`` any number of times, ``finish`` once. n samples become n * 48000 / rate, rounded."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        margin, step = math.ceil(_MARGIN_S * rate), rate // math.gcd(rate, PLAYOUT_RATE)
        self._step = step if step < rate // 20 else 1  # else the whole is moved by less than a playout sample
        self._margin = -(-margin // self._step) * self._step
        self._stream = None if rate == PLAYOUT_RATE else soxr.ResampleStream(rate, PLAYOUT_RATE, 1, dtype="float32")
        self._begun = False
        self._tail = np.zeros(0, np.float32)  # before the beginning: all that was pushed; then the last samples
        self._skip = self._taken = self._given = 0

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Those playout samples that the input so far decides."""
        if self._stream is None:
            return samples
        self._taken += len(samples)
        self._tail = np.concatenate([self._tail, samples])
        if not self._begun:
            if len(self._tail) <= self._margin:
                return np.zeros(0, np.float32)
            samples = self._with_lead()
        self._tail = self._tail[-self._margin - 1 :]
        return self._given_out(samples, last=False)

    def finish(self) -> NDArray[np.float32]:
        """The rest."""
        if self._stream is None or self._taken == 0:
            return np.zeros(0, np.float32)
        lead = np.zeros(0, np.float32) if self._begun else self._with_lead()
        size = min(self._margin, len(self._tail) - 1)
        end = 2 * self._tail[-1] - self._tail[-2 : -2 - size : -1]
        left = round(self._taken * PLAYOUT_RATE / self._rate) - self._given
        return self._given_out(np.concatenate([lead, end]), last=True)[:left]

    def _with_lead(self) -> NDArray[np.float32]:
        self._begun = True
        size = min(self._margin, len(self._tail) - 1) // self._step * self._step
        self._skip = round(size * PLAYOUT_RATE / self._rate)
        return np.concatenate([2 * self._tail[0] - self._tail[size:0:-1], self._tail])

    def _given_out(self, samples: NDArray[np.float32], last: bool) -> NDArray[np.float32]:
        assert self._stream is not None
        out: NDArray[np.float32] = self._stream.resample_chunk(samples, last=last)
        skipped = min(self._skip, len(out))
        self._skip -= skipped
        self._given += len(out) - skipped
        return out[skipped:]
