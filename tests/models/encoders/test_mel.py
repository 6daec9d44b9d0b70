"""Laws of the streaming log-mel features: chunked equals whole, the filterbank is librosa's, tokens hold what they
say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.encoders.mel import LogMelConfig, StreamingLogMel, mel_filterbank
from tests.tokens import frame_tokens

CONFIG = LogMelConfig()
MEL = StreamingLogMel(CONFIG)


def _voice(samples: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal(0, 3000, samples), -32768, 32767).astype(np.int16)


def test_filterbank_equals_librosa() -> None:
    filters = pytest.importorskip("librosa.filters")
    expected = filters.mel(sr=16000, n_fft=400, n_mels=40, fmin=50.0, fmax=7600.0)
    np.testing.assert_allclose(mel_filterbank(CONFIG), expected, atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(0, 1500), min_size=1, max_size=12), seed=st.integers(0, 1000))
def test_chunked_equals_whole_for_any_packet_sizes(sizes: list[int], seed: int) -> None:
    sound = _voice(sum(sizes), seed)
    state, parts, at = MEL.start(), [], 0
    for size in sizes:
        state, hops = MEL.push(state, sound[at : at + size])
        parts.append(hops)
        at += size
    whole = MEL.whole(sound)
    assert state.hops == len(whole)
    assert len(state.tail) < CONFIG.window
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=2e-5)


@pytest.mark.parametrize("size", [1, 7, 160, 320, 400, 640, 960, 4096])
def test_chunked_equals_whole(size: int) -> None:
    sound = _voice(3000)
    state, parts = MEL.start(), []
    for at in range(0, len(sound), size):
        state, hops = MEL.push(state, sound[at : at + size])
        parts.append(hops)
    np.testing.assert_allclose(np.concatenate(parts), MEL.whole(sound), atol=2e-5)


def test_push_leaves_the_old_state_alone() -> None:
    state, _ = MEL.push(MEL.start(), _voice(1000))
    before = state.tail.copy()
    _, first = MEL.push(state, _voice(1000, 1))
    _, again = MEL.push(state, _voice(1000, 1))
    np.testing.assert_array_equal(state.tail, before)
    np.testing.assert_array_equal(first, again)


def test_float_and_int16_are_the_same_sound() -> None:
    sound = _voice(2000)
    np.testing.assert_allclose(MEL.whole(sound), MEL.whole(sound.astype(np.float32) / 32768), atol=1e-6)


def test_silence_has_the_stated_value_and_a_tone_sits_in_its_band() -> None:
    assert np.allclose(MEL.whole(np.zeros(1000, np.int16)), CONFIG.silence)
    tone = (8000 * np.sin(2 * np.pi * 1000 * np.arange(1600) / 16000)).astype(np.int16)
    band = int(np.argmax(MEL.whole(tone)[2]))
    assert mel_filterbank(CONFIG)[band, round(1000 / 40)] > 0


@pytest.mark.parametrize(("frame", "need"), [(-3, 0), (-2, 0), (-1, 880), (0, 1520), (1, 2160), (12, 9200)])
def test_a_token_needs_its_frame_and_the_look_ahead_to_the_sample(frame: int, need: int) -> None:
    hops = MEL.whole(_voice(need))
    frame_tokens(hops, frame, CONFIG)
    if need:
        with pytest.raises(AssertionError):
            frame_tokens(MEL.whole(_voice(need - 1)), frame, CONFIG)


def test_a_token_reaches_95_ms_from_its_frames_start() -> None:
    assert CONFIG.reach_samples == 640 + 880
