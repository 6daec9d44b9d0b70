"""Motion figures of arrays: spread over seeds, jerk at the seams, blinks, the pulse of the reference.

Tracks are absolute or relative controls [seeds, ..., frames, 16]; between the first and the last two axes there may be
others, such as voices. Every interval is 95 % over seeds, by the jackknife. Independent of models.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ground.motion import FRAMES_PER_LATENT, INDEX, SCALES

FloatArray = NDArray[np.float64]
Statistic = Callable[[FloatArray], float]

FPS = 25
CHUNK = 12  # frames of a chunk; the first of a call has three fewer, so chunks begin at frame 9 + 12 j
LEAD = FRAMES_PER_LATENT - 1
CYCLE = 7  # chunks between two jumps of a reference that counts down: 3.36 s
POSE = tuple(INDEX[name] for name in ("yaw", "pitch", "roll"))
BLINK = INDEX["blinkL"]
SHUT = 0.4  # control of a lid from which it counts as shut


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and the half width of its 95 % interval over seeds (NaN with fewer than three seeds)."""

    value: float
    half: float

    def __str__(self) -> str:
        digits = 1 if abs(self.value) >= 10 else 2 if abs(self.value) >= 0.3 else 3
        return f"{self.value:.{digits}f}" + ("" if np.isnan(self.half) else f"±{self.half:.{digits}f}")


def student(freedom: int) -> float:
    """97.5 % point of Student's t (Cornish-Fisher, Abramowitz and Stegun 26.7.5): 1 % off at 3, exact beyond 5."""
    return 1.95996 + 2.3723 / freedom + 2.8225 / freedom**2 + 2.5558 / freedom**3


def estimate(statistic: Statistic, tracks: FloatArray) -> Estimate:
    """A statistic of all seeds with its jackknife interval; for a mean this is Student's interval."""
    seeds, value = len(tracks), statistic(tracks)
    if seeds < 3:
        return Estimate(value, float("nan"))
    without = np.array([statistic(np.delete(tracks, i, axis=0)) for i in range(seeds)])
    error = float(np.sqrt((seeds - 1) * without.var()))
    return Estimate(value, student(seeds - 1) * error)


# Spread


def sd_over_seeds(channel: str) -> Statistic:
    """Standard deviation over seeds at each frame, root mean square over frames: the variation that the voice does not
    determine."""
    return lambda tracks: float(np.sqrt(tracks[..., INDEX[channel]].var(axis=0, ddof=1).mean()))


def sd(channel: str) -> Statistic:
    """Standard deviation over seeds and frames together."""
    return lambda tracks: float(tracks[..., INDEX[channel]].std())


def mean_degrees(channel: str) -> Statistic:
    """Mean of an angle, in degrees from the reference's."""
    return lambda tracks: float(np.degrees(tracks[..., INDEX[channel]].mean()))


def seed_correlation(channel: str) -> Statistic:
    """Mean correlation between two seeds' tracks: 1 = the seed has no effect."""

    def statistic(tracks: FloatArray) -> float:
        rows = tracks[..., INDEX[channel]].reshape(len(tracks), -1)
        matrix = np.asarray(np.corrcoef(rows))
        return float((matrix.sum() - len(rows)) / (len(rows) * (len(rows) - 1)))

    return statistic


# Jerk at the seams


def squared_jerk(tracks: FloatArray) -> FloatArray:
    """[seeds, frames - 3]: squared third difference of the head's pose in channel scales, mean over all other axes."""
    scaled = tracks[..., POSE] / np.array([SCALES[i] for i in POSE])
    squares = (np.diff(scaled, 3, axis=-2) ** 2).mean(-1)
    return np.asarray(squares.reshape(len(tracks), -1, squares.shape[-1]).mean(1))


def seams(frames: int) -> dict[str, NDArray[np.bool_]]:
    """Masks [frames - 3] of third differences (t spans frames t .. t + 3) by place: J0 = across the chunk boundary, J1
    and J2 = across the next two boundaries of latents, inside = within one latent, all."""
    phase = (np.arange(frames - 3) + 3 - (CHUNK - LEAD)) % CHUNK  # 0, 1, 2: a chunk begins at t + 1, t + 2 or t + 3
    across = {f"J{i}": (phase >= 4 * i) & (phase < 4 * i + 3) for i in range(CHUNK // FRAMES_PER_LATENT)}
    return across | {"inside": phase % FRAMES_PER_LATENT == 3, "all": np.ones(len(phase), bool)}


def jerk_ratios(made: FloatArray, truth: FloatArray) -> dict[str, Estimate]:
    """Root mean square jerk at each kind of place, over the truth's at all places."""
    of_truth = float(np.sqrt(squared_jerk(truth).mean()))
    squares = squared_jerk(made)

    def ratio(where: NDArray[np.bool_]) -> Estimate:
        return estimate(lambda rows: float(np.sqrt(rows[:, where].mean())) / of_truth, squares)

    return {name: ratio(where) for name, where in seams(made.shape[-2]).items()}


def step_ratios(tracks: FloatArray) -> dict[str, Estimate]:
    """Mean step of the head's pose from one frame to the next, in channel scales, at the chunk boundary (step 0) and at
    the next two boundaries of latents (1, 2), over that within latents: 1 = no visible seam."""
    scaled = tracks[..., POSE] / np.array([SCALES[i] for i in POSE])
    steps = np.abs(np.diff(scaled, axis=-2)).mean(-1)
    steps = steps.reshape(len(tracks), -1, steps.shape[-1]).mean(1)
    phase = (np.arange(steps.shape[-1]) + 1 - (CHUNK - LEAD)) % CHUNK
    inside = phase % FRAMES_PER_LATENT > 0

    def ratio(at: int) -> Estimate:
        return estimate(lambda rows: float(rows[:, phase == at].mean() / rows[:, inside].mean()), steps)

    return {f"step {i}": ratio(FRAMES_PER_LATENT * i) for i in range(CHUNK // FRAMES_PER_LATENT)}


# Blinks


def onsets(tracks: FloatArray) -> NDArray[np.bool_]:
    """Mask [seeds, ..., frames - 1] of frames at which the left lid closes."""
    shut = tracks[..., BLINK] > SHUT
    return np.asarray(shut[..., 1:] & ~shut[..., :-1])


def blinks_a_minute(tracks: FloatArray) -> float:
    return float(onsets(tracks).mean() * FPS * 60)


def nods_a_minute(tracks: FloatArray, depth: float = 0.04, reach: int = 8) -> float:
    """Dips of the head a minute: minima of pitch that lie more than `depth` rad below the greatest pitch within `reach`
    frames on either side."""
    pitch = tracks[..., INDEX["pitch"]]
    windows = np.lib.stride_tricks.sliding_window_view(pitch, 2 * reach + 1, axis=-1)
    lowest = windows[..., reach]
    before, after = windows[..., :reach].max(-1), windows[..., reach + 1 :].max(-1)
    nods = (lowest == windows.min(-1)) & (np.minimum(before, after) - lowest > depth)
    return float(nods.sum() / (nods.size / FPS / 60))


def blink_interval_variation(tracks: FloatArray) -> float:
    """Standard deviation over mean of the time between blinks; NaN with fewer than two intervals."""
    rows = onsets(tracks).reshape(-1, tracks.shape[-2] - 1)
    gaps = np.concatenate([np.diff(np.flatnonzero(row)) for row in rows])
    return float(gaps.std() / gaps.mean()) if len(gaps) > 1 else float("nan")


def blink_coincidence(tracks: FloatArray, window: int = 10) -> float:
    """Variance, over windows of 0.4 s, of the number of seeds that blink, over the binomial variance: 1 = independent
    seeds; the number of seeds = all blink at the same time."""
    found = onsets(tracks)
    windows = found.shape[-1] // window
    blinking = found[..., : windows * window].reshape(*found.shape[:-1], windows, window).any(-1)
    seeds, share = len(tracks), blinking.mean()
    binomial = seeds * share * (1 - share)
    return float(blinking.sum(0).var() / binomial) if binomial else float("nan")


def blink_dispersion(tracks: FloatArray) -> float:
    """Variance over seeds of a track's number of blinks, over the binomial variance: below 1 = regular in time."""
    rows = onsets(tracks).reshape(len(tracks), -1)
    share = rows.mean()
    binomial = rows.shape[1] * share * (1 - share)
    return float(rows.sum(1).var(ddof=1) / binomial) if binomial else float("nan")


# The pulse of the reference's jumps, and drift


def pulse(channel: str, neighbours: int = 8) -> Statistic:
    """Spectral power at the period of 7 chunks (3.36 s) over that of its neighbours: 1 = no pulse. Hann window. The
    neighbours are the bins from 3 away on either side; the sides' geometric mean cancels the slope of the spectrum."""

    def statistic(tracks: FloatArray) -> float:
        period = CYCLE * CHUNK
        cycles = tracks.shape[-2] // period
        assert cycles >= 6, "a pulse needs at least six cycles (20 s)"
        track = tracks[..., : cycles * period, INDEX[channel]]
        track = (track - track.mean(-1, keepdims=True)) * np.hanning(cycles * period + 1)[:-1]
        power = (np.abs(np.fft.rfft(track, axis=-1)) ** 2).reshape(-1, cycles * period // 2 + 1).mean(0)
        reach = min(neighbours, cycles - 4)
        below, above = power[cycles - 2 - reach : cycles - 2], power[cycles + 3 : cycles + 3 + reach]
        return float(power[cycles] / np.sqrt(below.mean() * above.mean()))

    return statistic


def distance_by_phase(tracks: FloatArray, channel: str) -> FloatArray:
    """[7] root mean square distance from the reference's pose (zero), for each chunk of the cycle."""
    track = tracks[..., INDEX[channel]]
    phase = (np.arange(track.shape[-1]) + LEAD) // CHUNK % CYCLE
    return np.array([np.sqrt((track[..., phase == i] ** 2).mean()) for i in range(CYCLE)])


def phase_ratio(channel: str) -> Statistic:
    """Least over greatest variance about the reference's pose, over the 7 chunks of the cycle: 1 = no pulse. Its square
    root is the ratio of the distances."""

    def statistic(tracks: FloatArray) -> float:
        squares = distance_by_phase(tracks, channel) ** 2
        return float(squares.min() / squares.max())

    return statistic


def variance_ratio(channel: str, frames: int) -> Statistic:
    """Variance within the last `frames` frames over that within the first."""

    def statistic(tracks: FloatArray) -> float:
        track = tracks[..., INDEX[channel]]
        return float(track[..., -frames:].var() / track[..., :frames].var())

    return statistic


def shift_degrees(channel: str, frames: int) -> Statistic:
    """Mean of an angle within the last `frames` frames, less that within the first, in degrees."""
    at = mean_degrees(channel)
    return lambda tracks: at(tracks[..., -frames:, :]) - at(tracks[..., :frames, :])


def longest_stillness(tracks: FloatArray, step: float = 0.002) -> float:
    """Seconds of the longest span in which every angle of the pose moves by less than `step` rad a frame."""
    still = (np.abs(np.diff(tracks[..., POSE], axis=-2)) < step).all(-1).reshape(-1, tracks.shape[-2] - 1)
    edges = np.diff(np.pad(still.astype(int), ((0, 0), (1, 1))), axis=1)
    begins, ends = np.nonzero(edges == 1)[1], np.nonzero(edges == -1)[1]
    return float((ends - begins).max(initial=0) / FPS)
