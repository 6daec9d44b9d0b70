"""A call learns its speaker's vowels from what it has said so far."""

import numpy as np
import pytest

from engine.drive.speaker_adaptation import BEGIN, EVERY, KEPT, SpeakerAdaptation
from ground.motion import INDEX, SCALES
from models.encoders.mel import LogMelConfig
from models.encoders.visemes import VISEMES

MEL = LogMelConfig()
JAW, PUCKER, SMILE = (INDEX[name] for name in ("jaw", "pucker", "smile"))
ROUNDED, SPREAD = 8, 24  # bands in which somebody's second formant lies


def said(
    frames: int, doubt: float = 1.5, bands: tuple[int, int] = (ROUNDED, SPREAD), jaw: float = 0.3, seed: int = 0,
    moved: float = 0.1,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Features and estimated visemes of vowels, of four frames each, and which are spread (-1: rounded). The estimator
    hears both in the middle, or so, with that much doubt. What lies further than a frame from a frame's middle is of
    another vowel; a microphone tilts all spectra."""
    rng = np.random.default_rng(seed)
    sides = np.repeat(rng.choice([-1, 1], frames // 4 + 1), 4)[:frames]
    around = rng.choice([-1, 1], (frames, MEL.hops_before + MEL.hops_from))
    near = MEL.hops_before + MEL.hops_per_frame // 2
    around[:, near - 3 : near + 2] = sides[:, None]
    centres = np.where(around > 0, bands[1], bands[0])[..., None]
    hops = 1.5 * np.exp(-0.5 * ((np.arange(MEL.mels) - centres) / 3) ** 2) + 0.3 * rng.normal(
        size=(*around.shape, MEL.mels)
    )
    hops += np.linspace(2, -1, MEL.mels)
    visemes = np.zeros((frames, VISEMES), np.float32)
    visemes[:, JAW] = jaw / SCALES[JAW]
    width = moved * (sides + doubt * rng.normal(size=frames)) + 0.05
    visemes[:, PUCKER], visemes[:, SMILE] = -0.6 * width / SCALES[PUCKER], 0.4 * width / SCALES[SMILE]
    return hops.reshape(frames, -1).astype(np.float32), visemes, sides


def widths(visemes: np.ndarray) -> np.ndarray:
    return np.asarray(SCALES[SMILE] * visemes[:, SMILE] - SCALES[PUCKER] * visemes[:, PUCKER])


def apart(visemes: np.ndarray, sides: np.ndarray) -> float:
    """d' of spread and rounded."""
    spread, rounded = widths(visemes)[sides > 0], widths(visemes)[sides < 0]
    return float((spread.mean() - rounded.mean()) / np.sqrt((spread.var() + rounded.var()) / 2))


def test_vowels_that_an_estimator_confuses_are_told_apart_after_a_few_seconds() -> None:
    tokens, visemes, sides = said(400)
    adapted = SpeakerAdaptation()(tokens, visemes)
    assert apart(visemes[100:], sides[100:]) < 1.6
    assert apart(adapted[30:100], sides[30:100]) > 1.2 * apart(visemes[30:100], sides[30:100])
    assert apart(adapted[100:], sides[100:]) > 2 * apart(visemes[100:], sides[100:])
    assert widths(adapted).std() == pytest.approx(widths(visemes).std(), rel=0.1)  # lips move as far as they did,
    assert widths(adapted).mean() == pytest.approx(widths(visemes).mean(), abs=0.02)  # about the same middle
    pucker, smile = ((adapted - visemes)[100:, i] * SCALES[i] for i in (PUCKER, SMILE))
    np.testing.assert_allclose(0.4 * pucker, -0.6 * smile, atol=1e-6)


def test_the_surer_the_estimator_the_less_is_corrected() -> None:
    tokens, unsure, _ = said(300)
    sure = said(300, moved=0.25)[1]
    corrected = [
        np.abs(widths(SpeakerAdaptation()(tokens, visemes)) - widths(visemes))[150:].mean() / widths(visemes).std()
        for visemes in (unsure, sure)
    ]
    assert 0 < 1.5 * corrected[1] < corrected[0]


def test_only_the_lips_width_changes_and_only_where_the_mouth_is_open() -> None:
    tokens, visemes, _ = said(300)
    visemes[::3, JAW] = 0
    visemes[:, 3:] = np.random.default_rng(1).normal(size=(300, VISEMES - 3))
    adapted = SpeakerAdaptation()(tokens, visemes)
    np.testing.assert_array_equal(adapted[::3], visemes[::3])
    np.testing.assert_array_equal(adapted[:, [JAW, *range(3, VISEMES)]], visemes[:, [JAW, *range(3, VISEMES)]])
    assert np.abs(adapted[150:] - visemes[150:]).max() > 0.05


def test_nothing_changes_before_a_call_has_said_something() -> None:
    tokens, visemes, _ = said(BEGIN + 1)
    adapted = SpeakerAdaptation()(tokens, visemes)
    np.testing.assert_array_equal(adapted[: BEGIN - 1], visemes[: BEGIN - 1])
    assert (adapted[BEGIN - 1 :] != visemes[BEGIN - 1 :]).any()
    closed = said(300, jaw=0.05)
    np.testing.assert_array_equal(SpeakerAdaptation()(*closed[:2]), closed[1])


def test_however_the_frames_come() -> None:
    tokens, visemes, _ = said(240)
    adaptation, cuts = SpeakerAdaptation(), [1, 4, 50, 51, 120]
    parts = [adaptation(*part) for part in zip(np.split(tokens, cuts), np.split(visemes, cuts), strict=True)]
    np.testing.assert_allclose(np.concatenate(parts), SpeakerAdaptation()(tokens, visemes), atol=1e-6)


def test_who_speaks_later_is_all_that_counts_later() -> None:
    """The other's formants lie the other way round."""
    one, other = said(67 * EVERY), said(KEPT + 200, bands=(SPREAD, ROUNDED), seed=2)
    adaptation, afresh = SpeakerAdaptation(), SpeakerAdaptation()
    adaptation(*one[:2])
    changed, wanted = adaptation(*other[:2]), afresh(*other[:2])
    assert apart(changed[:100], other[2][:100]) < apart(other[1][:100], other[2][:100])  # still by the other's rule
    np.testing.assert_allclose(changed[-100:], wanted[-100:], atol=1e-4)


def test_lips_that_never_change_and_a_sound_that_never_changes_teach_nothing() -> None:
    tokens, visemes, _ = said(300, doubt=0.0)
    same = np.repeat(tokens[:1], 300, axis=0)
    np.testing.assert_allclose(SpeakerAdaptation()(same, visemes), visemes, atol=1e-4)
    _, still, _ = said(300, moved=1e-3)
    np.testing.assert_array_equal(SpeakerAdaptation()(tokens, still), still)


def test_a_frame_unlike_all_others_moves_the_lips_no_further_than_the_call_may() -> None:
    tokens, visemes, _ = said(300)
    adaptation = SpeakerAdaptation()
    adaptation(tokens, visemes)
    strange = adaptation(1000 * tokens[:1], visemes[:1])
    assert abs(widths(strange)[0] - widths(visemes).mean()) < 3.5 * widths(visemes).std()
