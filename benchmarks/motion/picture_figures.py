"""Picture figures of arrays: position of the lower lip, closure of the lids, PSNR.

Pictures are uint8 RGB [T, S, S, 3], the photograph [S, S, 3], landmarks in its -1..1 units. Knows no model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.motion.motion_figures import FloatArray

Pictures = NDArray[np.uint8]
Landmarks = Mapping[str, float]

ROUNDING = 1 / 12  # mean squared error of pictures that differ by their rounding alone: PSNR ends at 58.9 dB
LAGS = 4  # frames to either side
ACROSS, UP, DOWN = 0.14, 0.16, 0.36  # how far a patch is looked for, picture units
SHUT, OPEN = 0.6, 0.05  # a lid's control from which it counts as shut, and below which as open


@dataclass(frozen=True, slots=True)
class PictureBox:
    """A part of a picture, in its -1..1 units."""

    left: float
    top: float
    right: float
    bottom: float

    def cut(self, size: int) -> tuple[slice, slice]:
        """Rows and columns of it in pictures of this side."""
        rows, columns = (
            slice(max(0, round((a + 1) * size / 2)), min(size, round((b + 1) * size / 2)))
            for a, b in ((self.top, self.bottom), (self.left, self.right))
        )
        return rows, columns

    def widened(self, across: float, up: float, down: float) -> "PictureBox":
        return PictureBox(self.left - across, self.top - up, self.right + across, self.bottom + down)


def mouth_box(face: Landmarks) -> PictureBox:
    """Both lips, open or closed, and what is beside them, down to the chin's fold."""
    top = face["my"] - face["th"] - face["ut"] - 0.2 * face["mw"]
    return PictureBox(
        face["mx"] - 1.3 * face["mw"], top, face["mx"] + 1.3 * face["mw"], face["my"] + 0.6 * face["chin"]
    )


def lip_patch(face: Landmarks) -> PictureBox:
    """The lower lip's middle and the skin below it, but for the lip's upper edge, where teeth may begin."""
    bottom = face["my"] + face["lt"] + 0.6 * (face["chin"] - face["lt"])
    return PictureBox(
        face["mx"] - 0.5 * face["mw"], face["my"] + 0.25 * face["lt"], face["mx"] + 0.5 * face["mw"], bottom
    )


def nose_patch(face: Landmarks) -> PictureBox:
    """The nose, which nothing but the head moves."""
    x, eyes = (face["exl"] + face["exr"] + face["mx"]) / 3, (face["eyl"] + face["eyr"]) / 2
    height = face["my"] - eyes
    return PictureBox(x - 0.12, eyes + 0.12 * height, x + 0.12, eyes + 0.6 * height)


def place(pictures: Pictures, photo: Pictures, box: PictureBox) -> FloatArray:
    """How far below its place in the photograph a patch of it is found in each picture [T], picture units.

    Best normalised cross-correlation in colour (in grey a chin passes for a lip) within reach, to a part of a pixel by
    the parabola through the best three rows.
    """
    size = photo.shape[0]
    rows, columns = box.cut(size)
    around_rows, around_columns = box.widened(ACROSS, UP, DOWN).cut(size)
    patch = np.ascontiguousarray(photo[rows, columns])
    found = []
    for picture in pictures:
        near = np.ascontiguousarray(picture[around_rows, around_columns])
        score = np.asarray(cv2.matchTemplate(near, patch, cv2.TM_CCOEFF_NORMED), np.float32)
        row, column = np.unravel_index(int(score.argmax()), score.shape)
        found.append(float(row) + _peak(score[:, column], int(row)) + around_rows.start - rows.start)
    places: NDArray[np.float64] = np.array(found) * (2 / size)
    return places


def _peak(values: NDArray[np.float32], best: int) -> float:
    """Where beside the best of some values a parabola through it and its neighbours has its top, -0.5..0.5."""
    if not 0 < best < len(values) - 1:
        return 0.0
    before, at, after = (float(values[i]) for i in (best - 1, best, best + 1))
    bend = before - 2 * at + after
    return 0.5 * (before - after) / bend if bend < 0 else 0.0


def lip_travel(pictures: Pictures, photo: Pictures, face: Landmarks) -> FloatArray:
    """How far the lower lip is below its place in the photograph, seen from the nose [T], mouth half widths."""
    lip, nose = (place(pictures, photo, box) for box in (lip_patch(face), nose_patch(face)))
    return (lip - nose) / face["mw"]


def correlation(made: FloatArray, truth: FloatArray) -> float:
    """0 where one of them never changes."""
    if made.std() < 1e-9 or truth.std() < 1e-9:
        return 0.0
    return float(np.corrcoef(made, truth)[0, 1])


def lag(made: FloatArray, truth: FloatArray) -> float:
    """Frames by which what is made comes after truth (at most LAGS), nan where they have nothing to do with another."""
    middle = slice(LAGS, len(truth) - LAGS)
    found = {shift: correlation(np.roll(made, -shift)[middle], truth[middle]) for shift in range(-LAGS, LAGS + 1)}
    best = max(found, key=lambda shift: (found[shift], -abs(shift)))
    return float(best) if found[best] > 0 else float("nan")


def slope(made: FloatArray, truth: FloatArray) -> float:
    """Of the regression of what is made on truth: 1 = obeyed in full."""
    return float(np.cov(made, truth)[0, 1] / truth.var(ddof=1))


def shut_lids(pictures: Pictures, opened: Pictures, shut: Pictures) -> FloatArray:
    """How far the lids are shut in each picture [T]: 0 as in the picture with open lids, 1 as in the one with shut.

    The projection of a picture's difference from `opened` on that of `shut`, over the pixels where those two differ.
    """
    found = []
    for picture, zero, one in zip(pictures, opened, shut, strict=True):
        blink = one.astype(np.float32) - zero
        found.append(float(((picture.astype(np.float32) - zero) * blink).sum() / max(float((blink**2).sum()), 1.0)))
    return np.array(found)


def blink_height(lids: FloatArray, truth: FloatArray) -> float:
    """Mean rise of the lids' shutness from where truth's control (0..1) has them open to where it has them shut; nan
    without a blink."""
    shut, opened = truth > SHUT, truth < OPEN
    return float(lids[shut].mean() - lids[opened].mean()) if shut.any() and opened.any() else float("nan")


def psnr(made: Pictures, truth: Pictures, where: NDArray[np.bool_] | None = None) -> float:
    """Decibels of the error over all pictures together; `where` [S, S] chooses pixels. nan without any."""
    if where is not None and not where.any():
        return float("nan")
    errors = []
    for one, other in zip(made, truth, strict=True):
        square = (one.astype(np.float32) - other) ** 2
        errors.append(float(square.mean() if where is None else square[where].mean()))
    return float(10 * np.log10(255**2 / max(float(np.mean(errors)), ROUNDING)))


def seam_ratios(pictures: Pictures) -> tuple[float, float]:
    """Mean change of a picture from the one before at the first frame of a chunk, and at the first of its other
    latents, over that within latents: 1 = the seams cannot be seen. A call's first chunk is 9 frames long."""
    change = np.array([cv2.absdiff(b, a).mean() for a, b in pairwise(pictures)])
    phase = (np.arange(1, len(pictures)) + 3) % 12
    within = change[phase % 4 > 0].mean()
    return float(change[phase == 0].mean() / within), float(change[(phase == 4) | (phase == 8)].mean() / within)


def never_moved(truth: Pictures, photo: Pictures) -> NDArray[np.bool_]:
    """[S, S] pixels that are the photograph's in every picture, to one level."""
    low, high = truth.min(0).astype(np.int16), truth.max(0).astype(np.int16)
    return np.asarray(((photo - low <= 1) & (high - photo <= 1)).all(-1))
