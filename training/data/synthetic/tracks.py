"""Head motion tracks for a voice: pose, nods, brows, blinks, gaze and breath, 25 times a second.

Everything here is random but tied to the voice: livelier while speaking, nods and brows on accents, blinks at the ends
of phrases, now and then a listener's nods while it rests. Two draws for one voice differ, which is what makes the
trained model a generator. Knows no pixels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ground.motion import CHANNELS, INDEX

FloatArray = NDArray[np.float64]
FPS = 25.0


@dataclass(frozen=True, slots=True)
class HeadStyle:
    """Spreads (standard deviations, units of ground.motion) and rates of a head's own motion."""

    yaw: float = 0.095
    pitch: float = 0.050
    roll: float = 0.042
    tx: float = 0.013
    ty: float = 0.010
    idle: float = 0.70  # share of the spread that is left when the voice rests
    nod: float = 0.050  # rad down, on an accent
    nod_probability: float = 0.55
    listening_nods_min: float = 7.0  # while the voice rests for long
    listening_nod: float = 0.055  # rad down
    brow: float = 0.40
    brow_probability: float = 0.30
    blinks_min: float = 17.0
    gaze: float = 0.12
    eye_contact: float = 0.9  # gaze against head turn, per rad


def loudness(sound: NDArray[np.float32], frames: int, sample_rate: int = 16000) -> FloatArray:
    """Decibels below the recording's loud parts for each frame, `[frames]`, 0 loud, -40 or less silent."""
    step = int(sample_rate / FPS)
    padded = np.zeros(frames * step)
    padded[: min(len(sound), len(padded))] = sound[: len(padded)]
    power = (padded.reshape(frames, step) ** 2).mean(1)
    decibels: FloatArray = 10 * np.log10(power + 1e-9)
    return np.clip(decibels - np.percentile(decibels, 95), -60, 6)


def head_tracks(
    decibels: FloatArray, speaking: NDArray[np.bool_], rng: np.random.Generator, style: HeadStyle
) -> FloatArray:
    """All sixteen controls `[frames, 16]` with the lips at rest; `speaking` says where the mouth is busy."""
    frames = len(decibels)
    out = np.zeros((frames, len(CHANNELS)))
    lively = style.idle + (1 - style.idle) * _smooth(speaking.astype(float), 12)
    style_gain = rng.uniform(0.75, 1.25)
    slow = rng.uniform(0.9, 1.6)
    for name in ("yaw", "pitch", "roll", "tx", "ty"):
        sway = 0.85 * smooth_noise(frames, slow, rng) + 0.5 * smooth_noise(frames, 0.35, rng)
        out[:, INDEX[name]] = getattr(style, name) * style_gain * lively * sway
    out[:, INDEX["tx"]] += 0.06 * out[:, INDEX["yaw"]]  # a head turns about the neck, which lies behind the face
    out[:, INDEX["roll"]] += 0.15 * out[:, INDEX["yaw"]]
    accents = accent_frames(decibels, speaking, rng)
    _nods(out, accents, rng, style)
    _listening(out, speaking, rng, style)
    blink = blink_track(frames, phrase_ends(speaking), rng, style.blinks_min * rng.uniform(0.8, 1.2))
    out[:, INDEX["blinkL"]] = blink
    out[:, INDEX["blinkR"]] = np.clip(blink * rng.uniform(0.94, 1.0), 0, 1)
    _gaze(out, rng, style)
    out[:, INDEX["breath"]] = breath_track(frames, rng)
    low, high = (np.array([getattr(c, side) for c in CHANNELS]) for side in ("low", "high"))
    return np.clip(out, low, high)


def smooth_noise(frames: int, seconds: float, rng: np.random.Generator) -> FloatArray:
    """Stationary noise of unit variance, twice low-passed with time constant `seconds` / 2: no jumps in speed."""
    decay = float(np.exp(-2.0 / (seconds * FPS)))
    warm = int(6 * seconds * FPS) + 1
    x = rng.normal(size=frames + warm)
    for _ in range(2):
        x = _one_pole(x, decay)
    # Variance of white noise after two equal poles: (1 - a)^4 (1 + a^2) / (1 - a^2)^3.
    variance = (1 - decay) ** 4 * (1 + decay**2) / (1 - decay**2) ** 3
    unit: FloatArray = x[warm:] / np.sqrt(variance)
    return unit


def _one_pole(x: FloatArray, decay: float) -> FloatArray:
    """y[t] = decay * y[t-1] + (1 - decay) * x[t], as a truncated convolution."""
    taps = max(2, int(np.ceil(np.log(1e-4) / np.log(decay))))
    kernel = (1 - decay) * decay ** np.arange(taps)
    size = 1 << int(np.ceil(np.log2(len(x) + taps)))
    filtered: FloatArray = np.fft.irfft(np.fft.rfft(x, size) * np.fft.rfft(kernel, size), size)[: len(x)]
    return filtered


def _smooth(x: FloatArray, frames: int) -> FloatArray:
    kernel = np.hanning(2 * frames + 3)[1:-1]
    smoothed: FloatArray = np.convolve(np.pad(x, frames, mode="edge"), kernel / kernel.sum(), "valid")[: len(x)]
    return smoothed


def accent_frames(decibels: FloatArray, speaking: NDArray[np.bool_], rng: np.random.Generator) -> list[int]:
    """Loud syllables: local maxima of smoothed loudness, the louder the likelier, at least 0.3 s apart."""
    level = _smooth(decibels, 2)
    found: list[int] = []
    for t in range(2, len(level) - 2):
        peak = level[t] >= level[t - 2 : t + 3].max() and speaking[t] and level[t] > -14
        if peak and (not found or t - found[-1] >= 8) and rng.random() < np.clip(1.0 + level[t] / 16, 0.1, 1.0):
            found.append(t)
    return found


def phrase_ends(speaking: NDArray[np.bool_]) -> NDArray[np.intp]:
    return np.flatnonzero(speaking[:-1] & ~speaking[1:]) + 1


def _nods(out: FloatArray, accents: list[int], rng: np.random.Generator, style: HeadStyle) -> None:
    """Nods (down and back) and brow raises on some accents, added in place."""
    t = np.arange(len(out))
    for accent in accents:
        if rng.random() < style.nod_probability:
            width = rng.uniform(3.0, 5.5)
            size = style.nod * rng.uniform(0.3, 1.3)
            bump = np.exp(-0.5 * ((t - accent - 1) / width) ** 2)
            out[:, INDEX["pitch"]] -= size * bump
            out[:, INDEX["ty"]] -= 0.12 * size * bump
        if rng.random() < style.brow_probability:
            bump = np.exp(-0.5 * ((t - accent) / rng.uniform(3.5, 7.0)) ** 2)
            out[:, INDEX["brow"]] += style.brow * rng.uniform(0.3, 1.2) * bump
    out[:, INDEX["brow"]] += 0.06 * smooth_noise(len(out), 1.5, rng)


def _listening(out: FloatArray, speaking: NDArray[np.bool_], rng: np.random.Generator, style: HeadStyle) -> None:
    """One to three quick nods, each smaller than the one before, at random while the voice has rested for 0.8 s."""
    t = np.arange(len(out))
    resting = np.convolve(~speaking, np.ones(20), "full")[: len(out)] > 19.5
    for start in np.flatnonzero(resting & (rng.random(len(out)) < style.listening_nods_min / 60 / FPS)):
        size, period, width = style.listening_nod * rng.uniform(0.5, 1.3), rng.uniform(11, 15), rng.uniform(2.2, 3.2)
        for number in range(rng.integers(1, 4)):
            bump = size * 0.65**number * np.exp(-0.5 * ((t - start - 6 - number * period) / width) ** 2)
            out[:, INDEX["pitch"]] -= bump
            out[:, INDEX["ty"]] -= 0.12 * bump


def blink_track(frames: int, ends: NDArray[np.intp], rng: np.random.Generator, per_minute: float) -> FloatArray:
    """Blinks as a renewal process (never sooner than 0.6 s), likelier at the end of a phrase; about six frames long."""
    out = np.zeros(frames)
    mean_gap = 60.0 / per_minute
    t = rng.uniform(0, mean_gap) * FPS
    at_end = {int(e) + int(rng.integers(-1, 5)) for e in ends if rng.random() < 0.35}
    times: list[float] = []
    while t < frames:
        times.append(t)
        t += FPS * (0.6 + rng.gamma(2.0, (mean_gap * 1.2 - 0.6) / 2))
    for t in sorted(times + [float(e) for e in at_end]):
        if out[max(0, int(t) - 14) : int(t) + 2].max(initial=0) > 0:
            continue
        shape = _blink_shape(rng)
        a = int(t)
        out[a : a + len(shape)] = np.maximum(out[a : a + len(shape)], shape[: max(0, frames - a)])
    return out


def _blink_shape(rng: np.random.Generator) -> FloatArray:
    """Quick down, slower up, sampled at a random phase."""
    closing, held, opening = rng.uniform(1.6, 2.3), rng.uniform(0.6, 1.4), rng.uniform(3.0, 4.2)
    t = np.arange(9) + rng.uniform(0.2, 1.0)
    x = np.minimum(np.clip(t / closing, 0, 1), np.clip((closing + held + opening - t) / opening, 0, 1))
    shape: FloatArray = x * x * (3 - 2 * x) * rng.uniform(0.92, 1.0)
    return shape


def _gaze(out: FloatArray, rng: np.random.Generator, style: HeadStyle) -> None:
    """Saccades between fixations near the viewer, plus eye contact against the head's own turning."""
    frames = len(out)
    x, y, t = np.zeros(frames), np.zeros(frames), 0
    while t < frames:
        away = rng.random() < 0.35
        x[t:] = rng.normal(0, style.gaze * (2.2 if away else 0.4))
        y[t:] = rng.normal(0, style.gaze * (1.0 if away else 0.3))
        t += int(FPS * (rng.uniform(0.25, 0.9) if away else rng.uniform(0.7, 2.8))) + 1
    kernel = np.array([0.5, 0.5])
    for values, name, turn, gain in ((x, "gazeX", "yaw", 1.0), (y, "gazeY", "pitch", 0.7)):
        step = np.convolve(np.pad(values, (1, 0), mode="edge"), kernel, "valid")
        out[:, INDEX[name]] = step - style.eye_contact * gain * out[:, INDEX[turn]]


def breath_track(frames: int, rng: np.random.Generator) -> FloatArray:
    """A slow cycle of about four seconds, 0..1, its pace wandering."""
    pace = 2 * np.pi * rng.uniform(0.20, 0.30) / FPS * np.exp(0.15 * smooth_noise(frames, 4.0, rng))
    return 0.5 - 0.5 * np.cos(rng.uniform(0, 2 * np.pi) + np.cumsum(pace))
