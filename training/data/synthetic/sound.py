"""Augmentation of training voices: level, noise, rooms, narrow bands; and resampling.

All functions take and return 16 kHz mono float32 (full scale 1) and keep the length and the timing, except `resample`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ground.errors import MediaError

Sound = NDArray[np.float32]
SAMPLE_RATE = 16000


def import_soundfile() -> Any:
    """Reader of recordings; needed to make the data, not to train. Raises MediaError."""
    try:
        import soundfile
    except ImportError as error:
        raise MediaError("no_soundfile", "sound is read with soundfile: pip install soundfile") from error
    return soundfile


def import_librosa() -> Any:
    """Resampling and dynamic time warping; needed to make the data, not to train. Raises MediaError."""
    try:
        import librosa
    except ImportError as error:
        raise MediaError("no_librosa", "voices are resampled with librosa: pip install 'knotcast[data]'") from error
    return librosa


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Ranges and probabilities of the sound changes."""

    gain_db: tuple[float, float] = (-20.0, 6.0)
    noise_probability: float = 0.75
    snr_db: tuple[float, float] = (8.0, 45.0)
    room_probability: float = 0.4
    reverberation_s: tuple[float, float] = (0.1, 0.5)
    band_probability: float = 0.35
    low_cut_hz: tuple[float, float] = (40.0, 300.0)
    high_cut_hz: tuple[float, float] = (3200.0, 7600.0)
    babble_probability: float = 0.15


def resample(sound: Sound, rate: float, to: float) -> Sound:
    """Band-limited resampling of a whole recording. Raises MediaError without librosa."""
    if rate == to:
        return sound
    out = import_librosa().resample(sound, orig_sr=rate, target_sr=to, res_type="soxr_hq")
    return np.asarray(out[: round(len(sound) * to / rate)], np.float32)


def augment(sound: Sound, rng: np.random.Generator, config: Augmentation, babble: Sound | None = None) -> Sound:
    """One random microphone: room, band limits, noise (also babble, if given), level; clipped to full scale."""
    level = float(np.sqrt(np.mean(sound**2)) + 1e-5)
    if rng.random() < config.room_probability:
        sound = room(sound, rng, rng.uniform(*config.reverberation_s))
    if rng.random() < config.noise_probability:
        snr = rng.uniform(*config.snr_db)
        sound = sound + coloured_noise(len(sound), rng) * np.float32(level * 10 ** (-snr / 20))
    if babble is not None and rng.random() < config.babble_probability:
        loudness = float(np.sqrt(np.mean(babble**2)) + 1e-5)
        other = np.resize(babble, len(sound))
        sound = sound + other * np.float32(level / loudness * 10 ** (-rng.uniform(12.0, 30.0) / 20))
    if rng.random() < config.band_probability:
        sound = band_limit(sound, rng.uniform(*config.low_cut_hz), rng.uniform(*config.high_cut_hz))
    peak = float(np.max(np.abs(sound)) + 1e-6)
    gain = min(10 ** (rng.uniform(*config.gain_db) / 20), 1.2 / peak)
    heard: Sound = np.clip(sound * np.float32(gain), -1.0, 1.0).astype(np.float32)
    return heard


def coloured_noise(samples: int, rng: np.random.Generator) -> Sound:
    """Noise of unit power whose spectrum falls by a random slope (white to brown), its level wandering a little."""
    size = 1 << int(np.ceil(np.log2(max(samples, 2))))
    frequencies = np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), 40.0)
    shape = frequencies ** -rng.uniform(0.0, 1.2)
    phases = rng.normal(size=len(shape)) + 1j * rng.normal(size=len(shape))
    noise = np.fft.irfft(shape * phases, size)[:samples]
    knots = rng.uniform(0.5, 1.5, max(2, samples // SAMPLE_RATE + 2))
    noise *= np.interp(np.linspace(0, len(knots) - 1, samples), np.arange(len(knots)), knots)
    normal: Sound = (noise / (np.sqrt(np.mean(noise**2)) + 1e-9)).astype(np.float32)
    return normal


def room(sound: Sound, rng: np.random.Generator, reverberation_s: float) -> Sound:
    """Add an exponential tail (RT60 `reverberation_s`) after the direct sound, which keeps its place in time."""
    samples = int(reverberation_s * SAMPLE_RATE)
    tail = rng.normal(size=samples) * 10 ** (-3 * np.arange(samples) / samples)
    tail[: int(rng.uniform(0.002, 0.012) * SAMPLE_RATE)] = 0
    tail *= rng.uniform(0.1, 0.7) / (np.sqrt(np.sum(tail**2)) + 1e-9)
    tail[0] = 1.0
    size = 1 << int(np.ceil(np.log2(len(sound) + samples)))
    wet = np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(tail, size), size)
    return wet[: len(sound)].astype(np.float32)


def band_limit(sound: Sound, low_hz: float, high_hz: float) -> Sound:
    """Smooth band-pass without delay."""
    size = 1 << int(np.ceil(np.log2(len(sound) + SAMPLE_RATE // 10)))
    hz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    gain = 1 / (1 + (low_hz / np.maximum(hz, 1.0)) ** 8) / (1 + (hz / high_hz) ** 16)
    return np.fft.irfft(np.fft.rfft(sound, size) * gain, size)[: len(sound)].astype(np.float32)
