"""Picture figures of arrays: position of the lower lip, closure of the lids, PSNR, seams.

Pictures are uint8 RGB [T, S, S, 3], the photograph [S, S, 3], landmarks in its -1..1 units. Independent of models.
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

ROUNDING = 1 / 12  # mean squared error of pictures that differ by rounding only; it limits the PSNR to 58.9 dB
LAGS = 4  # frames to either side
ACROSS, UP, DOWN = 0.14, 0.16, 0.36  # reach of the search for a patch, picture units
SHUT, OPEN = 0.6, 0.05  # a lid's control from which it counts as shut, and below which as open


@dataclass(frozen=True, slots=True)
class PictureBox:
    """A part of a picture, in its -1..1 units."""

    left: float
    top: float
    right: float
    bottom: float

    def cut(self, size: int) -> tuple[slice, slice]:
        """Its rows and columns in pictures of this side length."""
        rows, columns = (
            slice(max(0, round((a + 1) * size / 2)), min(size, round((b + 1) * size / 2)))
            for a, b in ((self.top, self.bottom), (self.left, self.right))
        )
        return rows, columns

    def widened(self, across: float, up: float, down: float) -> "PictureBox":
        return PictureBox(self.left - across, self.top - up, self.right + across, self.bottom + down)


def mouth_box(face: Landmarks) -> PictureBox:
    """Both lips, open or closed, and the skin around them down to the chin's fold."""
    top = face["my"] - face["th"] - face["ut"] - 0.2 * face["mw"]
    return PictureBox(
        face["mx"] - 1.3 * face["mw"], top, face["mx"] + 1.3 * face["mw"], face["my"] + 0.6 * face["chin"]
    )


def lip_patch(face: Landmarks) -> PictureBox:
    """The lower lip's middle and the skin below it, without the lip's upper edge, where teeth may begin."""
    bottom = face["my"] + face["lt"] + 0.6 * (face["chin"] - face["lt"])
    return PictureBox(
        face["mx"] - 0.5 * face["mw"], face["my"] + 0.25 * face["lt"], face["mx"] + 0.5 * face["mw"], bottom
    )


def nose_patch(face: Landmarks) -> PictureBox:
    """The nose, which moves only with the head."""
    x, eyes = (face["exl"] + face["exr"] + face["mx"]) / 3, (face["eyl"] + face["eyr"]) / 2
    height = face["my"] - eyes
    return PictureBox(x - 0.12, eyes + 0.12 * height, x + 0.12, eyes + 0.6 * height)


def place(pictures: Pictures, photo: Pictures, box: PictureBox) -> FloatArray:
    """Distance of a patch below its place in the photograph, in each picture [T], picture units.

    Template matching by normalised cross-correlation in colour (in grey a chin is mistaken for a lip), with subpixel
    accuracy by a parabola through the best row and its neighbours.
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
    """Offset of the vertex of the parabola through the best value and its neighbours, -0.5..0.5."""
    if not 0 < best < len(values) - 1:
        return 0.0
    before, at, after = (float(values[i]) for i in (best - 1, best, best + 1))
    bend = before - 2 * at + after
    return 0.5 * (before - after) / bend if bend < 0 else 0.0


def lip_travel(pictures: Pictures, photo: Pictures, face: Landmarks) -> FloatArray:
    """Distance of the lower lip below its place in the photograph, relative to the nose [T], in half widths of the
    mouth."""
    lip, nose = (place(pictures, photo, box) for box in (lip_patch(face), nose_patch(face)))
    return (lip - nose) / face["mw"]


def correlation(made: FloatArray, truth: FloatArray) -> float:
    """Pearson correlation; 0 if one of the two is constant."""
    if made.std() < 1e-9 or truth.std() < 1e-9:
        return 0.0
    return float(np.corrcoef(made, truth)[0, 1])


def lag(made: FloatArray, truth: FloatArray) -> float:
    """Frames by which ``made`` is later than ``truth`` (at most LAGS); NaN if they do not correlate."""
    middle = slice(LAGS, len(truth) - LAGS)
    found = {shift: correlation(np.roll(made, -shift)[middle], truth[middle]) for shift in range(-LAGS, LAGS + 1)}
    best = max(found, key=lambda shift: (found[shift], -abs(shift)))
    return float(best) if found[best] > 0 else float("nan")


def slope(made: FloatArray, truth: FloatArray) -> float:
    """Slope of the regression of ``made`` on ``truth``: 1 = followed exactly."""
    return float(np.cov(made, truth)[0, 1] / truth.var(ddof=1))


def shut_lids(pictures: Pictures, opened: Pictures, shut: Pictures) -> FloatArray:
    """Closure of the lids in each picture [T]: 0 as in the picture with open lids, 1 as in the one with shut lids.

    Projection of a picture's difference from `opened` on the difference of `shut` from `opened`.
    """
    found = []
    for picture, zero, one in zip(pictures, opened, shut, strict=True):
        blink = one.astype(np.float32) - zero
        found.append(float(((picture.astype(np.float32) - zero) * blink).sum() / max(float((blink**2).sum()), 1.0)))
    return np.array(found)


def blink_height(lids: FloatArray, truth: FloatArray) -> float:
    """Mean closure of the lids where the true control (0..1) has them shut, less that where it has them open; NaN
    without a blink."""
    shut, opened = truth > SHUT, truth < OPEN
    return float(lids[shut].mean() - lids[opened].mean()) if shut.any() and opened.any() else float("nan")


def psnr(made: Pictures, truth: Pictures, where: NDArray[np.bool_] | None = None) -> float:
    """PSNR in dB, over all pictures together. where: [S, S], the pixels that count. NaN without any."""
    if where is not None and not where.any():
        return float("nan")
    errors = []
    for one, other in zip(made, truth, strict=True):
        square = (one.astype(np.float32) - other) ** 2
        errors.append(float(square.mean() if where is None else square[where].mean()))
    return float(10 * np.log10(255**2 / max(float(np.mean(errors)), ROUNDING)))


def seam_ratios(pictures: Pictures) -> tuple[float, float]:
    """Mean change from the picture before at the first frame of a chunk, and at the first frame of its other latents,
    over that within latents: 1 = no visible seam. A call's first chunk has 9 frames."""
    change = np.array([cv2.absdiff(b, a).mean() for a, b in pairwise(pictures)])
    phase = (np.arange(1, len(pictures)) + 3) % 12
    within = change[phase % 4 > 0].mean()
    return float(change[phase == 0].mean() / within), float(change[(phase == 4) | (phase == 8)].mean() / within)


def never_moved(truth: Pictures, photo: Pictures) -> NDArray[np.bool_]:
    """Mask [S, S] of pixels that differ from the photograph's by at most one level in every picture."""
    low, high = truth.min(0).astype(np.int16), truth.max(0).astype(np.int16)
    return np.asarray(((photo - low <= 1) & (high - photo <= 1)).all(-1))
