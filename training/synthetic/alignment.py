"""Phoneme times for human recordings: an espeak-ng reading of the same text is warped in time onto the recording.

Dynamic time warping on log-mel features, each band brought to zero mean and unit variance in both, so that two voices
can be compared. Good to about one video frame, which was judged by the closures of p, b and m; pauses are taken from
the loudness.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.features import StreamingLogMel
from training.synthetic.phonemes import SILENCE, Phoneme, Speech

_PAUSE_DB = -38.0  # below the recording's loud parts
_PAUSE_S = 0.18
_BAND = 0.18  # how far the path may leave the diagonal, as a share of the length


def align(recording: NDArray[np.float32], reading: Speech) -> tuple[Phoneme, ...]:
    """Phonemes of `recording` (16 kHz mono) from those of a `reading` of the same text."""
    mel = StreamingLogMel()
    ours, theirs = _features(mel.whole(recording)), _features(mel.whole(reading.sound))
    path = warp_path(ours, theirs)
    reading_s, recording_s = path[:, 1] * 0.01 + 0.0125, path[:, 0] * 0.01 + 0.0125
    keep = np.r_[True, np.diff(reading_s) > 0]
    edges = [p.start for p in reading.phonemes] + [reading.phonemes[-1].end]
    moved = np.interp(edges, reading_s[keep], recording_s[keep])
    moved[0], moved[-1] = 0.0, len(recording) / 16000
    moved = np.maximum.accumulate(moved)
    times = zip(reading.phonemes, moved[:-1], moved[1:], strict=True)
    return with_pauses([Phoneme(p.name, float(a), float(b)) for p, a, b in times if b > a], recording)


def _features(hops: NDArray[np.float32]) -> NDArray[np.float32]:
    normal = (hops - hops.mean(0)) / (hops.std(0) + 1e-3)
    slope = np.gradient(normal, axis=0)
    return np.concatenate([normal, 2.0 * slope], axis=1).astype(np.float32)


def warp_path(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.intp]:
    """Cheapest monotone path `[steps, 2]` of index pairs from (0, 0) to the ends, within a band about the diagonal."""
    n, m = len(a), len(b)
    cost = np.full((n + 1, m + 1), np.inf, np.float32)
    cost[0, 0] = 0.0
    came = np.zeros((n + 1, m + 1), np.int8)
    norms = (b**2).sum(1)
    reach = max(int(_BAND * m), 60)
    for i in range(1, n + 1):
        middle = int(i * m / n)
        low, high = max(1, middle - reach), min(m, middle + reach)
        local = np.sqrt(
            np.maximum((a[i - 1] ** 2).sum() + norms[low - 1 : high] - 2 * b[low - 1 : high] @ a[i - 1], 0.0)
        )
        diagonal, up = cost[i - 1, low - 1 : high] + local, cost[i - 1, low : high + 1] + 1.15 * local
        best = np.minimum(diagonal, up)
        step = np.where(diagonal <= up, 0, 1).astype(np.int8)
        left = np.float32(np.inf)
        for j in range(high - low + 1):  # the one direction that cannot be vectorised
            sideways = left + 1.15 * local[j]
            if sideways < best[j]:
                best[j], step[j] = sideways, 2
            left = best[j]
        cost[i, low : high + 1], came[i, low : high + 1] = best, step
    i, j, path = n, m, []
    while i > 0 and j > 0:
        path.append((i - 1, j - 1))
        move = came[i, j]
        i, j = i - (move != 2), j - (move != 1)
    return np.array(path[::-1])


def with_pauses(phonemes: Sequence[Phoneme], recording: NDArray[np.float32]) -> tuple[Phoneme, ...]:
    """Cut silence into phonemes where the recording is quiet for long enough to be a pause."""
    step = 160
    count = len(recording) // step
    power = (recording[: count * step].reshape(count, step) ** 2).mean(1)
    decibels = 10 * np.log10(np.convolve(power, np.ones(5) / 5, "same") + 1e-9)
    quiet = decibels < np.percentile(decibels, 95) + _PAUSE_DB
    edges = np.flatnonzero(np.diff(np.r_[0, quiet.astype(int), 0])) * 0.01
    pauses = [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a >= _PAUSE_S]
    out = list(phonemes)
    for a, b in pauses:
        cut: list[Phoneme] = []
        for p in out:
            pieces = [(p.start, min(p.end, a)), (max(p.start, b), p.end)]
            cut += [Phoneme(p.name, s, e) for s, e in pieces if e - s > 1e-6]
        out = sorted([*cut, Phoneme(SILENCE, a, b)], key=lambda p: p.start)
    return tuple(out)
