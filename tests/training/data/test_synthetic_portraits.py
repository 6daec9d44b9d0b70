"""Painted portraits: things lie where the landmarks say, a seed is a picture, framing knows them as faces."""

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.portrait.framing import frame_portrait
from engine.portrait.landmarks import EYE_X, EYE_Y
from ground.errors import RequestError
from training.data.synthetic.painting.looks import draw_marks
from training.data.synthetic.portraits import PaintedPortrait, landmarks_only, paint_portrait

SEEDS = range(500, 548)


@pytest.fixture(scope="module")
def gallery() -> list[PaintedPortrait]:
    return [paint_portrait(np.random.default_rng(seed)) for seed in SEEDS]


def grey(portrait: PaintedPortrait) -> NDArray[np.float64]:
    return np.asarray(portrait.rgb.mean(2))


def pixel(value: float) -> float:
    return (value + 1) * 160 - 0.5


def test_a_seed_is_a_picture(gallery: list[PaintedPortrait]) -> None:
    again = paint_portrait(np.random.default_rng(SEEDS[0]))
    np.testing.assert_array_equal(again.rgb, gallery[0].rgb)
    assert again.landmarks == gallery[0].landmarks
    assert all((one.rgb != gallery[0].rgb).any() for one in gallery[1:])


def test_landmarks_alone_are_those_of_the_picture(gallery: list[PaintedPortrait]) -> None:
    for seed, portrait in zip(SEEDS[:8], gallery, strict=False):
        alone = landmarks_only(np.random.default_rng(seed))
        assert {name: portrait.landmarks[name] for name in alone if name != "glasses"} == alone


def test_pupils_are_the_darkest_places_of_the_eyes(gallery: list[PaintedPortrait]) -> None:
    """The centre of what is dark within 12 pixels of where an iris should be."""
    off = []
    for portrait in gallery:
        if portrait.look.glasses or portrait.look.hat or portrait.look.style == "fringe":
            continue
        for x, y in ((-EYE_X, EYE_Y), (EYE_X, EYE_Y)):
            left, top = round(pixel(x)) - 7, round(pixel(y)) - 3
            part = grey(portrait)[top : top + 7, left : left + 15]
            dark = np.clip(np.percentile(part, 30) - part, 0, None)
            centre = (dark.sum(0) * (np.arange(15) + left)).sum() / dark.sum()
            off.append(abs(centre - pixel(x)))
    assert len(off) > 30
    assert np.median(off) < 1.5 and np.percentile(off, 90) < 3.0


def test_closed_lips_meet_on_the_line(gallery: list[PaintedPortrait]) -> None:
    off = []
    for portrait in gallery:
        marks = portrait.landmarks
        if marks["th"] == 0 and not portrait.look.beard:
            x, y, half = (round(v) for v in (pixel(marks["mx"]), pixel(marks["my"]), 0.2 * marks["mw"] * 160))
            profile = grey(portrait)[y - 7 : y + 8, x - half : x + half + 1].mean(1)
            off.append(abs(int(profile.argmin()) - 7 - (pixel(marks["my"]) - y)))
    assert len(off) > 8
    assert np.median(off) <= 1.0 and np.percentile(off, 90) <= 2.0


def test_teeth_shine_between_the_lips(gallery: list[PaintedPortrait]) -> None:
    """In wide smiles the upper half of the gap is brighter than the lower lip; pale lips in full light come near."""

    def band(portrait: PaintedPortrait, high: float, low: float) -> float:
        marks = portrait.landmarks
        middle, half = round(pixel(marks["mx"])), round(0.3 * marks["mw"] * 160)
        rows = slice(round(pixel(marks["my"] + high)), round(pixel(marks["my"] + low)) + 1)
        return float(grey(portrait)[rows, middle - half : middle + half + 1].mean())

    shine = []
    for portrait in gallery:
        th, lt = portrait.landmarks["th"], portrait.landmarks["lt"]
        if portrait.landmarks["smiling"] and th > 0.05 and not portrait.look.beard:
            shine.append(band(portrait, -0.8 * th, -0.35 * th) / band(portrait, 0.3 * lt, 0.7 * lt))
    assert len(shine) > 4
    assert np.median(shine) > 1.15 and min(shine) > 0.8


def test_mouths_span_what_the_estimator_must_know() -> None:
    marks = [draw_marks(np.random.default_rng(seed)) for seed in range(2000)]
    closed = np.array([one["th"] == 0 for one in marks])
    bend = np.array([one["curve"] / one["mw"] for one in marks])
    gap = np.array([one["th"] / one["mw"] for one in marks])
    assert 0.3 < closed.mean() < 0.5
    assert bend.min() == pytest.approx(-0.55) and bend.max() > 0.1
    assert (gap > 0.3).mean() > 0.2 and gap.max() > 0.8
    assert (np.array([one["lt"] for one in marks]) < 0.03).mean() > 0.05, "thin lips too"
    assert all(one["chin"] > one["lt"] + 0.05 and one["bh"] > one["eb"] for one in marks)


def test_skin_and_light_span_their_range(gallery: list[PaintedPortrait]) -> None:
    light = np.array([portrait.landmarks["lum"] for portrait in gallery])
    assert light.min() < 0.25 and light.max() > 0.7 and light.std() > 0.12


def test_framing_knows_most_of_them_as_faces(gallery: list[PaintedPortrait]) -> None:
    """The face networks saw photographs; the floor is what they reach on paintings, with a margin."""
    found = []
    for portrait in gallery[:24]:
        try:
            framed = frame_portrait(portrait.rgb)
        except RequestError:
            continue
        eyes = np.linalg.inv(framed.crop[:, :2]) @ (
            (np.array([[-EYE_X, EYE_X], [EYE_Y, EYE_Y]]) + 1) * 128 - 0.5 - framed.crop[:, 2:]
        )
        canonical = (np.array([[-EYE_X, EYE_Y], [EYE_X, EYE_Y]]) + 1) * 160 - 0.5
        found.append(np.abs(eyes.T - canonical).max() < 8)
    assert np.sum(found) >= 12
