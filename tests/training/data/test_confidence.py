"""The measurement of the landmark confidence: harms carry the truth along, the table says what it was given."""

import numpy as np
import pytest

from training.data.faces.confidence import HARMS, Outcome, corners, outcomes, table
from training.data.synthetic.portraits import paint_portrait


@pytest.mark.parametrize("harm", HARMS)
def test_the_truth_follows_what_was_done_to_the_picture(harm: str) -> None:
    """A white dot on black is found again where its point is said to be, unless something covers it."""
    image = np.zeros((320, 320, 3), np.uint8)
    image[215:225, 95:105] = 255
    at = (np.array([[99.5, 219.5]]) + 0.5) / 160 - 1
    worse, points = HARMS[harm](image, at, np.random.default_rng(3))
    bright = worse.astype(float).mean(2)
    bright = np.clip(bright - 0.5 * bright.max(), 0, None)
    y, x = (np.array(np.indices(bright.shape)) * bright).sum((1, 2)) / bright.sum()
    if harm != "covered":
        assert np.hypot(*((points[0] + 1) * 160 - 0.5 - (x, y))) < 3
    assert (worse != image).any()


def test_the_table_ranks_and_counts() -> None:
    found = [Outcome("clean", c, e) for c, e in ((0.99, 0.4), (0.98, 0.6), (0.7, 1.4), (0.7, 2.2), (0.3, 4.0))]
    lines = table([*found, Outcome("clean", 0.0, float("nan"))])
    assert "rank correlation of confidence and error: -0.97" in lines
    assert lines.splitlines()[-1].startswith("clean           5") and lines.endswith("refused 1")


def test_a_clean_face_is_measured_against_its_corners() -> None:
    portrait = paint_portrait(np.random.default_rng(8))
    marks = portrait.landmarks
    left, right = corners(marks)
    assert right[0] - left[0] == pytest.approx(2 * marks["mw"])
    measured = next(outcomes({"one": (portrait.rgb, marks)}))
    assert measured.harm == "clean" and measured.confidence > 0.6 and measured.error < 4
