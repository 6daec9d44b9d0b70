"""Phoneme times of recordings: what is known of a sound is found again."""

import ctypes.util
import shutil

import numpy as np
import pytest
from numpy.typing import NDArray

from ground.errors import RequestError
from training.data.synthetic import alignment
from training.data.synthetic.alignment import align, quiet_hops, warp_path
from training.data.synthetic.corpus import held_out_sentences, join
from training.data.synthetic.flite import Flite
from training.data.synthetic.phonemes import SILENCE, Phoneme, Speech, Synthesiser, Voice
from training.data.synthetic.recordings import READERS, READING_WPM
from training.data.synthetic.sound import SAMPLE_RATE, band_limit

# Each sound is a noise in a band of its own, so that only its place in time is to be found.
BANDS = {"a": (300, 1200), "s": (4000, 7500), "o": (100, 500), "f": (2000, 4000), "m": (80, 250)}


def _said(order: str, seconds: NDArray[np.float64], seed: int, *, noise: float = 0.0, tilt: float = 1.0) -> Speech:
    """A made-up reader: `order` of sounds, how long each, over noise; tilt: exponent of its loudness over the bands."""
    rng = np.random.default_rng(seed)
    parts, phonemes, at = [], [], 0.0
    for name, length in zip(order, seconds, strict=True):
        samples = int(length * SAMPLE_RATE)
        sound = rng.normal(0, 1, samples).astype(np.float32)
        if name == SILENCE:
            sound *= np.float32(0)
        else:
            low, high = BANDS[name]
            sound = band_limit(sound, low, high)
            sound *= np.float32(0.2 * (low / 1000) ** (tilt - 1) / (np.sqrt(np.mean(sound**2)) + 1e-9))
        parts.append(sound)
        phonemes.append(Phoneme(name, at, at + samples / SAMPLE_RATE))
        at = phonemes[-1].end
    sound = np.concatenate(parts)
    return Speech(sound + rng.normal(0, noise + 1e-6, len(sound)).astype(np.float32), tuple(phonemes))


def _middles(phonemes: tuple[Phoneme, ...]) -> NDArray[np.float64]:
    return np.array([(p.start + p.end) / 2 for p in phonemes if p.name != SILENCE])


def test_alignment_finds_a_known_warp() -> None:
    a = np.random.default_rng(0).normal(size=(120, 8)).astype(np.float32)
    b = np.repeat(a, np.where(np.arange(120) < 60, 1, 2), axis=0)
    path = warp_path(b, a)
    assert tuple(path[0]) == (0, 0) and tuple(path[-1]) == (len(b) - 1, 119)
    middle = path[np.abs(path[:, 0] - 100).argmin(), 1]
    assert abs(middle - 80) <= 1


def test_a_recording_aligned_with_itself_keeps_its_times() -> None:
    one = _said("_asofm_", np.full(7, 0.2), seed=0)
    (moved,) = align([one.sound], [[one]])
    assert [p.name for p in moved] == list("_asofm_")
    np.testing.assert_allclose([p.start for p in moved], [p.start for p in one.phonemes], atol=0.025)


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_other_readers_with_other_lengths_are_found_to_a_fraction_of_a_video_frame(noise: float) -> None:
    rng = np.random.default_rng(3)
    order = "_" + "_".join("".join(rng.permutation(list("asofm"))) for _ in range(8)) + "_"
    readings = [_said(order, rng.uniform(0.06, 0.16, len(order)), seed) for seed in (1, 2)]
    said = [_said(order, rng.uniform(0.06, 0.2, len(order)), seed, noise=noise, tilt=1.15) for seed in (3, 4)]
    found = align([one.sound for one in said], [readings, readings])
    for one, phonemes in zip(said, found, strict=True):
        assert [p.name for p in phonemes if p.name != SILENCE] == [n for n in order if n != SILENCE]
        missed = np.abs(_middles(phonemes) - _middles(one.phonemes))
        assert np.median(missed) < 0.012 and np.percentile(missed, 90) < 0.04


def test_a_pause_is_told_also_where_the_room_is_loud() -> None:
    lengths = np.array([0.3, 0.15, 0.12, 0.15, 0.6, 0.12, 0.15, 0.12, 0.3])
    reading = _said("_aso_mfa_", np.array([0.2, 0.12, 0.12, 0.1, 0.3, 0.12, 0.1, 0.1, 0.2]), seed=1)
    said = _said("_aso_mfa_", lengths, seed=2, noise=0.02)
    assert not quiet_hops(said.sound).any(), "loudness alone does not know it"
    (found,) = align([said.sound], [[reading]])
    (pause,) = [p for p in found[1:-1] if p.name == SILENCE]
    assert abs(pause.start - 0.72) < 0.05 and abs(pause.end - 1.32) < 0.05


def test_a_silence_that_the_reading_lacks_is_cut_in() -> None:
    reading = _said("_asomfa_", np.full(8, 0.15), seed=1)
    said = _said("_aso_mfa_", np.array([0.15, 0.15, 0.15, 0.15, 0.5, 0.15, 0.15, 0.15, 0.15]), seed=2)
    (found,) = align([said.sound], [[reading]])
    pauses = [p for p in found if p.name == SILENCE and p.end - p.start > 0.4]
    assert len(pauses) == 1 and abs(pauses[0].start - 0.6) < 0.04
    assert all(a.end == pytest.approx(b.start, abs=1e-6) for a, b in zip(found, found[1:], strict=False))


def test_what_comes_before_and_after_the_text_is_silence_also_where_the_room_is_loud() -> None:
    reading = _said("asomfa_aso", np.array([0.12] * 6 + [0.3] + [0.12] * 3), seed=1)
    said = _said("_asomfa_aso_", np.array([0.8] + [0.12] * 6 + [0.3] + [0.12] * 3 + [0.7]), seed=2, noise=0.02)
    (found,) = align([said.sound], [[reading]])
    assert found[0].name == found[-1].name == SILENCE
    assert abs(found[0].end - 0.8) < 0.05 and abs(found[-1].start - (len(said.sound) / SAMPLE_RATE - 0.7)) < 0.05


def test_a_recording_too_short_for_its_text_is_told() -> None:
    reading = _said("asomfa" * 4, np.full(24, 0.12), seed=1)
    with pytest.raises(RequestError, match=r"0\.5 s are too short for the 24 sounds of the text"):
        align([reading.sound[:8000]], [[reading]])


@pytest.mark.skipif(
    shutil.which("flite") is None or ctypes.util.find_library("espeak-ng") is None, reason="needs flite and espeak-ng"
)
def test_closures_of_a_voice_made_of_recordings_are_found_closer_than_by_warping() -> None:
    """flite tells its times, espeak-ng reads the same text: the middles of p, b and m."""
    texts = [sentence for sentence in held_out_sentences("en") if any(letter in sentence for letter in "pbm")]
    said = join([Flite().speak(text, "rms") for text in texts])
    espeak = Synthesiser()
    readings = [espeak.speak(" ".join(texts), Voice("en-us" + who, READING_WPM)) for who in READERS]
    wanted = [p for p in said.phonemes if p.name in ("p", "b", "m")]

    def missed(phonemes: list[Phoneme]) -> NDArray[np.float64]:
        found = [p for p in phonemes if p.name in ("p", "b", "m")]
        assert [p.name for p in found] == [p.name for p in wanted] and len(wanted) > 20
        return np.abs(_middles(tuple(found)) - _middles(tuple(wanted)))

    (aligned,) = align([said.sound], [readings])
    closer, warped = missed(list(aligned)), missed(alignment._warped(said.sound, readings[0]))
    assert np.median(closer) < 0.015 and np.median(closer) < 0.75 * np.median(warped)
    assert np.percentile(closer, 90) < 0.04
