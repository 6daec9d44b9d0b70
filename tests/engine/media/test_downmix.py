"""The downmix to mono: a voice on any channels is heard at its own level, and nothing cancels."""

import numpy as np
import pytest

from engine.media.downmix import Downmix

RATE = 48_000
BLOCK = 960


def voice(seed: int = 0, seconds: float = 1.0) -> np.ndarray:
    """Noise in bursts, peak about 0.5."""
    n = int(RATE * seconds)
    noise = np.random.default_rng(seed).standard_normal(n)
    return (0.15 * noise * np.sin(2 * np.pi * 2 * np.arange(n) / RATE) ** 2).astype(np.float32)


def mixed(*channels: np.ndarray, block: int = BLOCK) -> np.ndarray:
    samples = np.stack(channels, axis=1).astype(np.float32)
    downmix = Downmix(samples.shape[1], RATE)
    return np.concatenate([downmix.push(samples[at : at + block]) for at in range(0, len(samples), block)])


def silence() -> np.ndarray:
    return np.zeros(RATE, np.float32)


@pytest.mark.parametrize("place", range(6))
def test_a_voice_on_one_channel_of_six_keeps_its_level(place: int) -> None:
    channels = [silence() for _ in range(6)]
    channels[place] = voice()
    assert np.allclose(mixed(*channels), voice(), atol=1e-6)


def test_equal_channels_are_the_voice_itself_and_mono_is_untouched() -> None:
    assert np.allclose(mixed(voice(), voice()), voice(), atol=1e-6)
    assert np.allclose(mixed(*[voice()] * 6), voice(), atol=1e-6)
    assert np.array_equal(mixed(voice()), voice())


@pytest.mark.parametrize("other", [-1.0, -0.4, -2.0])
def test_opposed_channels_do_not_cancel(other: float) -> None:
    out = mixed(voice(), voice() * np.float32(other))
    assert np.abs(np.corrcoef(out, voice())[0, 1]) > 0.9999
    assert out.std() == pytest.approx(voice().std() * max(1.0, -other), rel=0.01)


def test_opposed_channels_whose_louder_side_changes_have_no_dip() -> None:
    n = np.arange(RATE)
    tone = np.sin(2 * np.pi * 200 * n / RATE)
    sway = 0.02 * np.sin(2 * np.pi * 3 * n / RATE)
    out = mixed(tone * (0.3 + sway), -tone * (0.3 - sway))
    levels = out.reshape(-1, BLOCK).std(axis=1)
    assert levels.min() > 0.9 * levels.max()


def test_two_speakers_one_on_each_side_are_both_heard() -> None:
    left, right = voice(1), voice(2)
    left[RATE // 2 :], right[: RATE // 2] = 0, 0
    out = mixed(left, right)
    assert out[: RATE // 2].std() == pytest.approx(left[: RATE // 2].std(), rel=0.05)
    assert out[RATE // 2 :].std() == pytest.approx(right[RATE // 2 :].std(), rel=0.2)


def test_a_voice_that_changes_sides_has_no_click() -> None:
    n = np.arange(RATE)
    tone = 0.3 * np.sin(2 * np.pi * 100 * n / RATE)
    side = n < RATE // 2  # the tone passes through zero there
    out = mixed(np.where(side, tone, 0), np.where(side, 0, -tone))
    assert np.abs(np.diff(out)).max() < 2 * np.abs(np.diff(tone)).max()


def test_a_constant_offset_decides_nothing() -> None:
    out = mixed(voice() + np.float32(0.4), voice() - np.float32(0.4))
    assert np.allclose(out, voice(), atol=1e-5)


def test_silence_stays_silent_and_scale_does_not_matter() -> None:
    assert not mixed(silence(), silence()).any()
    quiet = mixed(voice() * np.float32(1e-3), -voice() * np.float32(1e-3))
    loud = mixed(voice() * np.float32(32768), -voice() * np.float32(32768))
    assert np.allclose(quiet * 1e3, loud / 32768, rtol=1e-3, atol=1e-6)
    assert Downmix(2, RATE).push(np.zeros((0, 2), np.float32)).shape == (0,)


@pytest.mark.parametrize("block", [480, 960, 2880])
def test_a_phase_that_turns_over_neither_cancels_nor_clicks(block: int) -> None:
    tone = 0.25 * np.sin(2 * np.pi * 200 * np.arange(3 * RATE) / RATE)
    right = np.concatenate([tone[:RATE], -tone[RATE : 2 * RATE], tone[2 * RATE :]])
    out = mixed(tone, right, block=block)
    for second in range(3):
        assert out[second * RATE + 12_000 : (second + 1) * RATE].std() > 0.95 * tone.std()
    assert np.abs(np.diff(out)).max() < 3 * np.abs(np.diff(tone)).max()


def test_hiss_in_the_other_channel_takes_nothing_from_the_voice() -> None:
    hiss = np.random.default_rng(5).normal(0, 0.0006, RATE).astype(np.float32)
    out = mixed(hiss, voice())
    assert 0.98 < out.std() / voice().std() < 1.02 and np.corrcoef(out, voice())[0, 1] > 0.999
