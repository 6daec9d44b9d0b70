"""Resampling: streamed equals whole, the length is exact, and both ends are those of the signal."""

import numpy as np
import pytest

from engine.media.resample import Resampler

RATES = [8000, 11_025, 16_000, 22_050, 24_000, 44_100, 44_101, 48_000, 96_000]


def tone(n: int, rate: int, start: int = 0, hertz: float = 300.0) -> np.ndarray:
    return (0.5 * np.cos(2 * np.pi * hertz * (start + np.arange(n)) / rate)).astype(np.float32)


def resampled(samples: np.ndarray, rate: int, block: int = 10**9) -> np.ndarray:
    resampler = Resampler(rate)
    parts = [resampler.push(samples[at : at + block]) for at in range(0, len(samples), block)]
    return np.concatenate([*parts, resampler.finish()])


@pytest.mark.parametrize("rate", RATES)
def test_both_ends_are_those_of_the_signal(rate: int) -> None:
    out = resampled(tone(rate, rate), rate)
    assert len(out) == 48_000
    assert np.abs(out - tone(48_000, 48_000)).max() < 0.02


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("block", [1, 33, 1000])
def test_in_pieces_equals_whole(rate: int, block: int) -> None:
    samples = np.random.default_rng(0).standard_normal(3000).astype(np.float32)
    assert np.allclose(resampled(samples, rate, block), resampled(samples, rate), atol=1e-5)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("n", [0, 1, 2, 10, 147, 441, 442])
def test_the_shortest_sounds(rate: int, n: int) -> None:
    out = resampled(np.full(n, 0.5, np.float32), rate)
    assert len(out) == round(n * 48_000 / rate) and np.isfinite(out).all()
    if n >= 441:
        assert np.allclose(out, 0.5, atol=1e-3)


@pytest.mark.parametrize("rate", [16_000, 24_000, 44_100])
def test_parts_join_without_a_click(rate: int) -> None:
    n = rate * 13 // 100
    joined = np.concatenate([resampled(tone(n, rate), rate), resampled(tone(n, rate, n), rate)])
    assert np.abs(joined - tone(len(joined), 48_000)).max() < 0.01
