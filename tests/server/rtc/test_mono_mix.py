"""A voice is heard whichever channels hold it, at its own level."""

import numpy as np
import pytest
from numpy.typing import NDArray

from server.rtc.mono_mix import MixState, mix

BLOCK = 960


def voice(seconds: float, seed: int = 0) -> NDArray[np.float64]:
    """Syllables of a 140 Hz tone with overtones, four a second, and pauses."""
    t = np.arange(int(seconds * 48_000)) / 48_000
    tone = sum(np.sin(2 * np.pi * 140 * k * t + seed * k) / k for k in range(1, 12))
    return np.asarray(6000 * tone * np.clip(np.sin(2 * np.pi * 4 * t), 0, 1))


def mixed(left: NDArray[np.float64], right: NDArray[np.float64], block: int = BLOCK) -> NDArray[np.int16]:
    stereo = np.stack([left, right], axis=1).clip(-32768, 32767).astype(np.int16)
    state, out = MixState(), []
    for start in range(0, len(stereo), block):
        mono, state = mix(state, stereo[start : start + block])
        out.append(mono)
    return np.concatenate(out)


def level(pcm: NDArray[np.generic]) -> float:
    return float(np.sqrt(np.mean(np.asarray(pcm, np.float64) ** 2)))


def hiss(n: int, seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(0, 20, n)


V = voice(2.0)
QUIET = np.zeros(len(V))


@pytest.mark.parametrize(
    ("left", "right"),
    [(V, QUIET), (QUIET, V), (V, V), (V, -V), (-V, V), (0.3 * V, V), (V, -0.5 * V)],
    ids=["left", "right", "both", "opposite", "opposite 2", "mostly right", "opposite, uneven"],
)
def test_a_voice_keeps_its_level_wherever_it_is(left: NDArray[np.float64], right: NDArray[np.float64]) -> None:
    for noise in (0, 1):
        n = len(V)
        out = mixed(left + noise * hiss(n, 1), right + noise * hiss(n, 2))
        assert len(out) == n
        assert 0.8 < level(out) / level(V) < 1.05
        assert abs(np.corrcoef(out, V)[0, 1]) > 0.99


def test_equal_channels_are_passed_on_bit_by_bit() -> None:
    assert np.array_equal(mixed(V, V), V.astype(np.int16))


@pytest.mark.parametrize("block", [480, 960, 1920, 2880])
def test_a_voice_that_changes_sides_is_heard_again_at_once_and_without_a_click(block: int) -> None:
    half = len(V) // 2
    steady = voice(2.0) * 0 + 6000 * np.sin(2 * np.pi * 200 * np.arange(len(V)) / 48_000)
    left = np.concatenate([steady[:half], QUIET[half:]])
    right = np.concatenate([QUIET[:half], steady[half:]])
    out = mixed(left, right, block)
    assert level(out[half + 9600 : half + 14_400]) > 0.8 * level(steady)
    assert level(out[half + 4800 : half + 9600]) > 0.5 * level(steady)
    clean = np.abs(np.diff(steady)).max()
    assert np.abs(np.diff(out.astype(int)))[half + 2 :].max() < 1.5 * clean


def test_phase_that_turns_over_does_not_cancel_and_does_not_click() -> None:
    n = 48_000
    tone = 8000 * np.sin(2 * np.pi * 200 * np.arange(3 * n) / 48_000)
    right = np.concatenate([tone[:n], -tone[n : 2 * n], tone[2 * n :]])
    out = mixed(tone, right)
    for second in range(3):
        assert level(out[second * n + 12_000 : (second + 1) * n]) > 0.95 * level(tone)
    assert np.abs(np.diff(out.astype(int))).max() < 3 * np.abs(np.diff(tone)).max()


def test_full_scale_does_not_overflow() -> None:
    loud = np.where(np.arange(9600) % 200 < 100, 32767.0, -32768.0)
    for other in (loud, -loud, np.zeros(9600)):
        out = mixed(loud, other)
        assert np.sign(out[-1000:]).tolist() == np.sign(loud[-1000:]).tolist()


def test_silence_is_silence() -> None:
    assert not mixed(QUIET, QUIET).any()
