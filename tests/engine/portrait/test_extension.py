"""Beyond a picture's edge: known pixels stay, a plain backdrop goes on, and stripes fade instead of running on."""

import numpy as np

from engine.portrait.extension import extended
from engine.portrait.landmarks import canonical_crop

SIDE = 256


def known(first_row: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[first_row:] = True
    return mask


def test_known_pixels_stay_and_a_plain_backdrop_goes_on() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    assert np.array_equal(extended(picture, known(100))[100:], picture[100:])
    plain = np.full((SIDE, SIDE, 3), (90, 120, 200), np.uint8)
    assert np.abs(extended(plain, known(100)).astype(int) - plain).max() <= 1


def test_stripes_at_the_edge_fade_with_the_distance() -> None:
    stripes = np.zeros((SIDE, SIDE, 3), np.uint8)
    stripes[:, np.arange(SIDE) // 8 % 2 == 0] = 255
    contrast = extended(stripes, known(150)).astype(float).std((1, 2))
    assert contrast[149] > 100 and contrast[100] < 0.2 * contrast[149] and contrast[:60].max() < 10


def test_a_crop_that_reaches_beyond_the_picture_has_no_streaks() -> None:
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)
    crop, affine = canonical_crop(picture, np.array([[60.0, 30.0], [100.0, 30.0]]))
    top = round(float(affine[1, 2]))  # the picture's first row in the crop
    assert top > 40 and crop[: top - 40].astype(float).std((1, 2)).max() < 25
    inside, _ = canonical_crop(
        np.pad(picture, ((200, 200), (200, 200), (0, 0))), np.array([[260.0, 230.0], [300.0, 230.0]])
    )
    rows = slice(top + 4, top + 150)
    assert np.abs(crop[rows, 100:150].astype(int) - inside[rows, 100:150]).max() <= 1
