"""Audio-visual sync check: mouth opening against loudness at many shifts.

A voice is louder when the mouth is open, so over a few seconds the two correlate best where they belong together. The
evidence is weak and only strong evidence counts: a span without a clear best shift is neither praised nor refused.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

REACH_S = 0.8  # largest shift tried
TOLERATED_S = 0.12  # shifts up to this are no shift
SURE = 0.35  # least correlation at the best shift
CLEAR = 0.12  # and by how much it exceeds the best within what is tolerated
BAND_HZ = (200.0, 3400.0)
SLOW_S = 1.2  # what changes more slowly than this is taken off both


@dataclass(frozen=True, slots=True)
class Sync:
    """lag_s: how much later the lips are than the voice, 0 without clear evidence. score: correlation at that shift."""

    lag_s: float
    score: float


def sync(opening: Doubles, sound: NDArray[np.float32], fps: int, rate: int) -> Sync:
    """opening [n]: of the lips, a frame each. sound: the same time, n * rate / fps samples."""
    count = len(opening)
    lips, voice = _detail(opening, fps), _detail(_loudness(sound, count, rate // fps, rate), fps)
    reach = int(REACH_S * fps)
    if count < 4 * reach:
        return Sync(0.0, 0.0)
    scores = np.array([_correlation(lips, voice, shift) for shift in range(-reach, reach + 1)])
    shifts = np.arange(-reach, reach + 1) / fps
    tolerated = abs(shifts) <= TOLERATED_S
    best, near = int(scores.argmax()), float(scores[tolerated].max())
    if scores[best] >= SURE and scores[best] - near >= CLEAR:
        return Sync(float(shifts[best]), round(float(scores[best]), 3))
    return Sync(0.0, round(near, 3))


def _correlation(lips: Doubles, voice: Doubles, shift: int) -> float:
    """Of the lips with the voice `shift` frames before them."""
    a, b = (lips[shift:], voice[: len(voice) - shift]) if shift >= 0 else (lips[:shift], voice[-shift:])
    spread = float(a.std() * b.std())
    return float(((a - a.mean()) * (b - b.mean())).mean()) / spread if spread > 1e-9 else 0.0


def _loudness(sound: NDArray[np.float32], frames: int, step: int, rate: int) -> Doubles:
    """Cube root of the power in the voice's band, [frames]: loudness as heard, which does not stress the silence."""
    blocks = np.pad(sound, (0, max(0, frames * step - len(sound))))[: frames * step].reshape(frames, step)
    spectrum = abs(np.fft.rfft(blocks * np.hanning(step), axis=1)) ** 2
    hertz = np.fft.rfftfreq(step, 1 / rate)
    power: Doubles = spectrum[:, (hertz >= BAND_HZ[0]) & (hertz <= BAND_HZ[1])].sum(1)
    return np.cbrt(power)


def _detail(values: Doubles, fps: int) -> Doubles:
    """Lightly smoothed, without what changes slowly."""
    known = np.interp(np.arange(len(values)), np.flatnonzero(~np.isnan(values)), values[~np.isnan(values)])
    return _smoothed(known, 3) - _smoothed(known, int(SLOW_S * fps) | 1)


def _smoothed(values: Doubles, width: int) -> Doubles:
    padded = np.pad(values, width // 2, mode="edge")
    window = np.hanning(width + 2)[1:-1]
    return np.convolve(padded, window / window.sum(), "valid")
