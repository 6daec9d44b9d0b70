"""Streaming log-mel features: sound of any packet size in, one row of 40 values every 10 ms out.

The state is passed in and returned, so one instance serves every call, and the split into packets does not change the
result. Windows are not centred: a row is complete at the end of its own 25 ms window. Independent of calls, latents and
networks.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LogMelConfig:
    """Parameters of the features. Hop h uses samples `hop * h .. hop * h + window - 1` (center=False).

    The token of frame n holds hops `4n - 8 .. 4n + 7`; it ends 95 ms (`reach_samples`) after the start of the frame.
    """

    sample_rate: int = 16000
    window: int = 400  # samples, 25 ms, periodic Hann
    hop: int = 160  # samples, 10 ms
    mels: int = 40
    low_hz: float = 50.0
    high_hz: float = 7600.0
    floor: float = 1e-10  # lower bound of the mel power, full scale = 1
    mean: float = -4.9  # mean of the log10 power over the training voices, including silence
    scale: float = 2.6  # standard deviation of the same, rounded
    hops_per_frame: int = 4
    hops_before: int = 8
    hops_from: int = 8  # hops of a token that begin at or after the start of the frame

    @property
    def token_size(self) -> int:
        return (self.hops_before + self.hops_from) * self.mels

    @property
    def reach_samples(self) -> int:
        """Samples from the start of a frame to the end of its token."""
        return (self.hops_from - 1) * self.hop + self.window

    @property
    def silence(self) -> float:
        """Feature value of digital silence."""
        return (float(np.log10(self.floor)) - self.mean) / self.scale


@dataclass(frozen=True, slots=True)
class LogMelState:
    """State of a stream. tail: samples that the next hop still needs. hops: number of hops returned so far."""

    tail: FloatArray
    hops: int = 0


def mel_filterbank(config: LogMelConfig) -> FloatArray:
    """Slaney's mel filters with area normalisation, `[mels, window // 2 + 1]`, equal to librosa's default."""
    edges = mel_edges(config)
    bins = np.linspace(0.0, config.sample_rate / 2, config.window // 2 + 1)
    lower, centre, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (bins - lower) / (centre - lower), (upper - bins) / (upper - centre)
    filters = np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (upper - lower))
    return filters.astype(np.float32)


def mel_edges(config: LogMelConfig) -> NDArray[np.float64]:
    """Frequencies in Hz `[mels + 2]`: band m begins at m, is centred at m + 1 and ends at m + 2."""
    return _mel_to_hz(np.linspace(_hz_to_mel(config.low_hz), _hz_to_mel(config.high_hz), config.mels + 2))


def _hz_to_mel(hz: float) -> float:
    """Linear below 1 kHz, logarithmic above (M. Slaney, Auditory Toolbox, 1998)."""
    return hz * 3 / 200 if hz < 1000 else 15 + float(np.log(hz / 1000)) * 27 / float(np.log(6.4))


def _mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))


@lru_cache(maxsize=4)
def _tables(config: LogMelConfig) -> tuple[FloatArray, FloatArray]:
    phase = 2 * np.pi * np.arange(config.window) / config.window
    window = (0.5 - 0.5 * np.cos(phase)).astype(np.float32)
    return window, np.ascontiguousarray(mel_filterbank(config).T)


class StreamingLogMel:
    """Stateless feature extractor: a pure function of state and sound."""

    def __init__(self, config: LogMelConfig | None = None) -> None:
        self.config = config or LogMelConfig()

    def start(self) -> LogMelState:
        return LogMelState(np.zeros(0, np.float32))

    def push(self, state: LogMelState, pcm: NDArray[np.float32] | NDArray[np.int16]) -> tuple[LogMelState, FloatArray]:
        """Add mono samples (int16, or float with full scale 1; any number, also 0). Returns the new state and the
        completed hops `[n, mels]`."""
        config = self.config
        sound = np.concatenate([state.tail, _as_float(pcm)])
        count = max(0, (len(sound) - config.window) // config.hop + 1)
        if count == 0:
            return LogMelState(sound, state.hops), np.zeros((0, config.mels), np.float32)
        window, filters = _tables(config)
        starts = np.lib.stride_tricks.sliding_window_view(sound, config.window)[:: config.hop][:count]
        spectrum = np.fft.rfft(starts * window, axis=1)
        power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
        values = (np.log10(np.maximum(power @ filters, config.floor)) - config.mean) / config.scale
        return LogMelState(sound[count * config.hop :].copy(), state.hops + count), values.astype(np.float32)

    def whole(self, pcm: NDArray[np.float32] | NDArray[np.int16]) -> FloatArray:
        """All hops `[n, mels]` of a complete sound."""
        return self.push(self.start(), pcm)[1]


def _as_float(pcm: NDArray[np.float32] | NDArray[np.int16]) -> FloatArray:
    assert pcm.ndim == 1, "mono sound only"
    if pcm.dtype == np.int16:
        return pcm.astype(np.float32) / np.float32(32768.0)
    return pcm.astype(np.float32, copy=False)
